"""Retrieval: among all real pictures, how near is the one that was asked for? By coarse pixels, no network."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lumina_core.measures import neighbours

Pictures = NDArray[np.uint8]
Features = NDArray[np.float64]

SLACK = 1e-9
"""Distances nearer than this are ties; pictures drawn alike (some flags) differ only by rounding."""


def thumbnails(pictures: Pictures) -> Features:
    """What is compared: pictures averaged to 32 px, then over 2x2 blocks.

    Args:
        pictures: (N, H, W, 3), 0..255, of any one size.

    Returns:
        (N, 768), values in 0..1, rows of a picture first, colours last.
    """
    parts = [_coarse(pictures[start : start + 256]) for start in range(0, len(pictures), 256)]
    return np.concatenate(parts) if parts else np.zeros((0, 768))


def rank(generated: Features, reference_index: NDArray[np.int64], references: Features) -> NDArray[np.int64]:
    """How many references are nearer to each generated picture than the one it should show, by squared distance.

    Args:
        generated: (M, D) thumbnails.
        reference_index: (M,) which reference each should show.
        references: (N, D) thumbnails.

    Returns:
        (M,): 0 where the right one is the nearest. A reference exactly as near as the right one is not counted.
    """
    found = neighbours.ranks(
        torch.from_numpy(generated), torch.from_numpy(reference_index), torch.from_numpy(references), SLACK
    )
    counted: NDArray[np.int64] = found.numpy()
    return counted


def top(ranks: NDArray[np.int64], k: int) -> float:
    """Share of the ranks among the first k."""
    return float((ranks < k).mean())


def _coarse(pictures: Pictures) -> Features:
    values = torch.tensor(pictures).permute(0, 3, 1, 2).float()
    blocks = F.avg_pool2d(F.interpolate(values, size=(32, 32), mode="area"), 2)
    features: Features = blocks.permute(0, 2, 3, 1).flatten(1).double().div_(255).numpy()
    return features
