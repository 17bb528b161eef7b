"""Bucket sizes: the published list of aspect ratios, and the sizes that fit an image best.

The list, the criterion and the choice among the best four are those of the code of Lumina-Next
(Alpha-VLLM/Lumina-T2X, lumina_next_t2i_mini/imgproc.py). Images are cropped, never padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

ImageSize = tuple[int, int]
"""(width, height) in pixels."""


def num_patches(image_size: int, patch_size: int) -> int:
    """Return the rounded number of patches of a square image: the maximum of every bucket size.

    Args:
        image_size: side of the image in pixels.
        patch_size: side of a patch in pixels.
    """
    return round((image_size / patch_size) ** 2)


def bucket_sizes(max_patches: int, patch_size: int, max_aspect_ratio: float = 4.0) -> list[ImageSize]:
    """Return the published sizes: for each width the heights that use the patches, or a few less.

    For a width of w patches these are floor(max_patches / (w + 1)) to floor(max_patches / w), so that neighbours in the
    list differ by one patch on one side.

    Args:
        max_patches: largest number of patches of a size, >= 1.
        patch_size: step of both sides in pixels: downsampling factor times patch size.
        max_aspect_ratio: largest ratio of the longer to the shorter side, >= 1.

    Returns:
        (width, height) in pixels, the widest first.

    Raises:
        ValueError: an argument is below its minimum.
    """
    if max_patches < 1 or patch_size < 1 or not max_aspect_ratio >= 1:
        raise ValueError(
            f"max_patches, patch_size, max_aspect_ratio: got {max_patches}, {patch_size}, {max_aspect_ratio}, "
            "expected 1 or more."
        )
    return [
        (columns * patch_size, rows * patch_size)
        for columns, rows in _grid_shapes(max_patches)
        if max(columns, rows) / min(columns, rows) <= max_aspect_ratio
    ]


def kept_fraction(image_size: ImageSize, bucket_size: ImageSize) -> float:
    """Return the share of an image, in (0, 1], that remains after it is resized to cover a size and cropped to it."""
    scale_x, scale_y = bucket_size[0] / image_size[0], bucket_size[1] / image_size[1]
    return min(scale_x, scale_y) / max(scale_x, scale_y)


def best_sizes(image_size: ImageSize, sizes: Sequence[ImageSize], top_k: int) -> list[ImageSize]:
    """Return the `top_k` sizes with the largest kept fraction, the best first; of equal ones the widest first."""
    return sorted(sizes, key=lambda size: (kept_fraction(image_size, size), size), reverse=True)[:top_k]


def _grid_shapes(max_patches: int) -> Iterator[ImageSize]:
    for columns in range(max_patches, 0, -1):
        for rows in range(max(1, max_patches // (columns + 1)), max_patches // columns + 1):
            yield columns, rows
