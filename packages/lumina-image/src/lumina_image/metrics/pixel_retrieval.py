"""Retrieval: among all real pictures, how near is the one that was asked for? By coarse pixels, no network."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lumina_core.metrics import retrieval_precision_recall

Images = NDArray[np.uint8]
FeatureArray = NDArray[np.float64]

TIE_TOLERANCE = 1e-9
"""Distances nearer than this are ties; pictures drawn alike (some flags) differ only by rounding."""


def thumbnail_features(images: Images) -> FeatureArray:
    """What is compared: pictures averaged to 32 px, then over 2x2 blocks.

    Args:
        pictures: (N, H, W, 3), 0..255, of any one size.

    Returns:
        (N, 768), values in 0..1, rows of a picture first, colours last.
    """
    chunks = [_average_blocks(images[start : start + 256]) for start in range(0, len(images), 256)]
    return np.concatenate(chunks) if chunks else np.zeros((0, 768))


def retrieval_ranks(
    generated: FeatureArray, target_index: NDArray[np.int64], references: FeatureArray
) -> NDArray[np.int64]:
    """How many references are nearer to each generated picture than the one it should show, by squared distance.

    Args:
        generated: (M, D) thumbnails.
        reference_index: (M,) which reference each should show.
        references: (N, D) thumbnails.

    Returns:
        (M,): 0 where the right one is the nearest. A reference exactly as near as the right one is not counted.
    """
    ranks = retrieval_precision_recall.target_ranks(
        torch.from_numpy(generated), torch.from_numpy(target_index), torch.from_numpy(references), TIE_TOLERANCE
    )
    result: NDArray[np.int64] = ranks.numpy()
    return result


def top_k_accuracy(ranks: NDArray[np.int64], k: int) -> float:
    """Share of the ranks among the first k."""
    return float((ranks < k).mean())


def _average_blocks(images: Images) -> FeatureArray:
    values = torch.tensor(images).permute(0, 3, 1, 2).float()
    blocks = F.avg_pool2d(F.interpolate(values, size=(32, 32), mode="area"), 2)
    features: FeatureArray = blocks.permute(0, 2, 3, 1).flatten(1).double().div_(255).numpy()
    return features
