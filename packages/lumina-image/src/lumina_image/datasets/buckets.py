"""Sizes that pictures are cut to: the published list of aspect ratios, and which of its sizes fit a picture best.

The list, the measure and the draw among the best four are those of the code of Lumina-Next (Alpha-VLLM/Lumina-T2X,
lumina_next_t2i_mini/imgproc.py); a picture is never padded, it is cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

Size = tuple[int, int]
"""(width, height) in pixels."""


def patch_count(side: int, patch: int) -> int:
    """How many patches of `patch` pixels a square picture of `side` pixels has, rounded: the budget of every size."""
    return round((side / patch) ** 2)


def bucket_sizes(patches: int, patch: int, max_ratio: float = 4.0) -> list[Size]:
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
    if patches < 1 or patch < 1 or not max_ratio >= 1:
        raise ValueError(f"wanted patches >= 1, patch >= 1, max_ratio >= 1; got {patches}, {patch}, {max_ratio}")
    return [(wide * patch, high * patch) for wide, high in _staircase(patches) if _ratio(wide, high) <= max_ratio]


def kept_share(picture: Size, size: Size) -> float:
    """The share of a picture, 0..1, that stays when it is scaled to cover `size` and cut to it."""
    across, down = size[0] / picture[0], size[1] / picture[1]
    return min(across, down) / max(across, down)


def best_sizes(picture: Size, sizes: Sequence[Size], best: int) -> list[Size]:
    """The `best` sizes that keep most of a picture, the best first; of equal ones the widest first."""
    return sorted(sizes, key=lambda size: (kept_share(picture, size), size), reverse=True)[:best]


def draw_size(picture: Size, sizes: Sequence[Size], best: int, draw: random.Random) -> Size:
    """One of the `best` sizes that fit best, each as likely: what the published training does with every picture."""
    return draw.choice(best_sizes(picture, sizes, best))


def _staircase(patches: int) -> Iterator[Size]:
    for wide in range(patches, 0, -1):
        for high in range(max(1, patches // (wide + 1)), patches // wide + 1):
            yield wide, high


def _ratio(wide: int, high: int) -> float:
    return max(wide, high) / min(wide, high)
