"""How sure a figure is: a bootstrap for means, a jackknife for what is no mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TIMES, BLOCKS = 1000, 10
NORMAL = 1.959964
"""Standard deviations to each side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Interval:
    """The standard error of a figure, and the bounds that hold it with 95 %."""

    error: float
    low: float
    high: float


def of_mean(values: Tensor, clusters: Tensor, seed: int = 0) -> Interval:
    """Of a mean, by drawing whole clusters again (percentile bootstrap, 1000 times).

    Args:
        values: (M,).
        clusters: (M,) which of them belong together, and so are no independent witnesses: one thing that was asked
            for in several languages, say.
        seed: the same seed gives the same bounds.
    """
    _, place = clusters.unique(return_inverse=True)
    count = int(place.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, place, values.double())
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, place, torch.ones_like(values, dtype=torch.float64))
    drawn = torch.randint(count, (TIMES, count), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(means.std()), low, high)


def without(clusters: Tensor) -> list[list[int]]:
    """The places (of M) that stay when a tenth of the clusters is left out, for each tenth; for `of_blocks`."""
    _, place = clusters.unique(return_inverse=True)
    blocks = min(BLOCKS, int(place.max()) + 1)
    return [torch.nonzero(place % blocks != block).flatten().tolist() for block in range(blocks)]


def of_blocks(found: Sequence[float], value: float) -> Interval:
    """Of any figure of a set, from what it is without each block (block jackknife, normal bounds).

    Unlike the bootstrap it draws nothing twice, which a distance between sets would take for sameness.

    Args:
        found: the figure without each block, two or more.
        value: the figure of all.
    """
    figures = torch.tensor(list(found), dtype=torch.float64)
    share = (len(figures) - 1) / len(figures)
    error = float((share * (figures - figures.mean()).square().sum()).sqrt())
    return Interval(error, value - NORMAL * error, value + NORMAL * error)
