"""Confidence intervals of scores: bootstrap for means, jackknife for scores of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_RESAMPLES, NUM_BLOCKS = 1000, 10
Z_95 = 1.959964
"""Standard deviations to each side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """Standard error of a score, and its 95 % bounds."""

    error: float
    low: float
    high: float


def bootstrap_ci(values: Tensor, clusters: Tensor, seed: int = 0) -> ConfidenceInterval:
    """Compute the interval of a mean by resampling clusters (percentile bootstrap, 1000 resamples).

    Args:
        values: (M,).
        clusters: (M,) cluster of each value; values of a cluster are not independent (one example in several
            languages, say).
        seed: the same seed gives the same bounds.
    """
    _, cluster_index = clusters.unique(return_inverse=True)
    count = int(cluster_index.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, cluster_index, values.double())
    sizes = torch.bincount(cluster_index, minlength=count).double()
    resampled = torch.randint(count, (NUM_RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    means = sums[resampled].sum(1) / sizes[resampled].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return ConfidenceInterval(float(means.std()), low, high)


def jackknife_splits(clusters: Tensor) -> list[list[int]]:
    """Return the indices (of M) that remain without each tenth of the clusters, for `jackknife_ci`."""
    _, cluster_index = clusters.unique(return_inverse=True)
    blocks = min(NUM_BLOCKS, int(cluster_index.max()) + 1)
    return [torch.nonzero(cluster_index % blocks != block).flatten().tolist() for block in range(blocks)]


def jackknife_ci(leave_out_values: Sequence[float], value: float) -> ConfidenceInterval:
    """Compute the interval of a score of a set from its values without each block (block jackknife, normal bounds).

    Unlike the bootstrap it draws no example twice, which a distance between sets would count as similarity.

    Args:
        leave_out_values: the score without each block, two or more.
        value: score of all items.
    """
    values = torch.tensor(list(leave_out_values), dtype=torch.float64)
    factor = (len(values) - 1) / len(values)
    error = float((factor * (values - values.mean()).square().sum()).sqrt())
    return ConfidenceInterval(error, value - Z_95 * error, value + Z_95 * error)
