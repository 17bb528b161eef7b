"""How sure a figure is: a bootstrap for means, a jackknife for what is no mean."""

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
    """The standard error of a figure, and the bounds that hold it with 95 %."""

    error: float
    low: float
    high: float


def bootstrap_ci(values: Tensor, clusters: Tensor, seed: int = 0) -> ConfidenceInterval:
    """Of a mean, by drawing whole clusters again (percentile bootstrap, 1000 times).

    Args:
        values: (M,).
        clusters: (M,) which of them belong together, and so are no independent witnesses: one thing that was asked
            for in several languages, say.
        seed: the same seed gives the same bounds.
    """
    _, cluster_index = clusters.unique(return_inverse=True)
    count = int(cluster_index.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, cluster_index, values.double())
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(
        0, cluster_index, torch.ones_like(values, dtype=torch.float64)
    )
    resampled = torch.randint(count, (NUM_RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    means = sums[resampled].sum(1) / sizes[resampled].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return ConfidenceInterval(float(means.std()), low, high)


def jackknife_splits(clusters: Tensor) -> list[list[int]]:
    """The places (of M) that stay when a tenth of the clusters is left out, for each tenth; for `of_blocks`."""
    _, cluster_index = clusters.unique(return_inverse=True)
    blocks = min(NUM_BLOCKS, int(cluster_index.max()) + 1)
    return [torch.nonzero(cluster_index % blocks != block).flatten().tolist() for block in range(blocks)]


def jackknife_ci(leave_out_values: Sequence[float], value: float) -> ConfidenceInterval:
    """Of any figure of a set, from what it is without each block (block jackknife, normal bounds).

    Unlike the bootstrap it draws nothing twice, which a distance between sets would take for sameness.

    Args:
        found: the figure without each block, two or more.
        value: the figure of all.
    """
    values = torch.tensor(list(leave_out_values), dtype=torch.float64)
    factor = (len(values) - 1) / len(values)
    error = float((factor * (values - values.mean()).square().sum()).sqrt())
    return ConfidenceInterval(error, value - Z_95 * error, value + Z_95 * error)
