"""Sizes that pictures are cut to: the published list of aspect ratios, and which of its sizes fit a picture best.

The list, the measure and the draw among the best four are those of the code of Lumina-Next (Alpha-VLLM/Lumina-T2X,
lumina_next_t2i_mini/imgproc.py); a picture is never padded, it is cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

ImageSize = tuple[int, int]
"""(width, height) in pixels."""


def num_patches(image_size: int, patch_size: int) -> int:
    """How many patches of `patch` pixels a square picture of `side` pixels has, rounded: the budget of every size."""
    return round((image_size / patch_size) ** 2)


def bucket_sizes(max_patches: int, patch_size: int, max_aspect_ratio: float = 4.0) -> list[ImageSize]:
    """The published sizes: for each width the heights that use up the budget of patches, and a little less.

    For a width of w patches these are floor(patches / (w + 1)) to floor(patches / w), so that neighbours of the list
    differ by one patch on one side.

    Args:
        patches: the most patches that a size may have, >= 1.
        patch: the step of both sides, in pixels: the autoencoder's stride times the tokenizer's patch.
        max_ratio: the longer side over the shorter, at most; >= 1.

    Returns:
        (width, height) in pixels, the widest first.

    Raises:
        ValueError: an argument is below its bound.
    """
    if max_patches < 1 or patch_size < 1 or not max_aspect_ratio >= 1:
        raise ValueError(
            f"wanted patches >= 1, patch >= 1, max_ratio >= 1; got {max_patches}, {patch_size}, {max_aspect_ratio}"
        )
    return [
        (wide * patch_size, high * patch_size)
        for wide, high in _grid_shapes(max_patches)
        if _aspect_ratio(wide, high) <= max_aspect_ratio
    ]


def kept_fraction(image_size: ImageSize, bucket_size: ImageSize) -> float:
    """The share of a picture, 0..1, that stays when it is scaled to cover `size` and cut to it."""
    scale_x, scale_y = bucket_size[0] / image_size[0], bucket_size[1] / image_size[1]
    return min(scale_x, scale_y) / max(scale_x, scale_y)


def best_sizes(image_size: ImageSize, sizes: Sequence[ImageSize], top_k: int) -> list[ImageSize]:
    """The `best` sizes that keep most of a picture, the best first; of equal ones the widest first."""
    return sorted(sizes, key=lambda size: (kept_fraction(image_size, size), size), reverse=True)[:top_k]


def sample_size(image_size: ImageSize, sizes: Sequence[ImageSize], top_k: int, rng: random.Random) -> ImageSize:
    """One of the `best` sizes that fit best, each as likely: what the published training does with every picture."""
    return rng.choice(best_sizes(image_size, sizes, top_k))


def _grid_shapes(max_patches: int) -> Iterator[ImageSize]:
    for columns in range(max_patches, 0, -1):
        for rows in range(max(1, max_patches // (columns + 1)), max_patches // columns + 1):
            yield columns, rows


def _aspect_ratio(width: int, height: int) -> float:
    return max(width, height) / min(width, height)
