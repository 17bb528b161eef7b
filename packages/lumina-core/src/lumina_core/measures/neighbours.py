"""Nearest neighbours among features: ranks of the right one, precision and recall of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 512
"""Rows whose distances are held at once."""


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """(M, D), (N, D) -> (M, N) squared distances in float64, good to about 1e-15 of the squared lengths; never below 0.

    Equal rows of `other` are equally far from a row of `one` to the last bit.
    """
    a, b = one.double(), other.double()
    middle = b.mean(0)  # near their middle the lengths are small, and so is what rounds away
    a, b = a - middle, b - middle
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp_(min=0)


def ranks(made: Tensor, right: Tensor, real: Tensor, slack: float = 0.0) -> Tensor:
    """How many real rows are nearer to each made one than the right one is, by more than `slack` of squared distance.

    Args:
        made: (M, D). right: (M,) which row of `real` each should show. real: (N, D).

    Returns:
        (M,) int64; 0: nothing is nearer. One exactly as near as the right one is not counted.
    """
    counted = [(near < near.gather(1, right[rows, None]) - slack).sum(1) for rows, near in _distances(made, real)]
    return torch.cat(counted) if counted else torch.zeros(0, dtype=torch.int64)


def nearest_in(made: Tensor, real: Tensor, belongs: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (M,) to the nearest real row of those that belong to each made one, and to the nearest other.

    Args:
        belongs: (M, N) bool. Where none belongs, or no other is there, the distance is infinite.
    """
    inside, outside = [], []
    for rows, near in _distances(made, real):
        inside.append(near.masked_fill(~belongs[rows], torch.inf).amin(1))
        outside.append(near.masked_fill(belongs[rows], torch.inf).amin(1))
    return torch.cat(inside), torch.cat(outside)


def kin_ranks(
    made: Tensor, right: Tensor, real: Tensor, families: Sequence[str], spared: Tensor | None = None
) -> Tensor:
    """How many families have a member nearer to each made one than every member of its own family is.

    Args:
        made: (M, D). right: (M,) a real row of the family each should belong to. real: (N, D).
        families: for each of the N its family.
        spared: (M,) a real row each that is not looked at: itself, where real ones are asked after their own.

    Returns:
        (M,) int64; 0: the nearest of all is of its family. Where none of it is left to look at, all others count.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(families))}
    of = torch.tensor([numbers[name] for name in families])
    counted = [torch.zeros(0, dtype=torch.int64)]
    for rows, near in _distances(made, real):
        if spared is not None:
            near = near.scatter(1, spared[rows, None], torch.inf)
        best = near.new_full((len(near), len(numbers)), torch.inf)
        best = best.scatter_reduce(1, of.expand(len(near), -1), near, "amin")
        counted.append((best < best.gather(1, of[right[rows], None])).sum(1))
    return torch.cat(counted)


def precision_recall(made: Tensor, real: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Which made rows lie in the balls around the real ones, and which real rows in those around the made ones.

    A ball reaches to its centre's k-th nearest neighbour of its own set (Kynkaanniemi et al., arXiv 1904.06991, k = 3).

    Returns:
        (M,) and (N,) bool; their means are precision and recall.

    Raises:
        ValueError: a set has no k-th neighbour.
    """
    if min(len(made), len(real)) <= k:
        raise ValueError(f"the {k}-th neighbour needs more than {k} in each set, got {len(made)} and {len(real)}")
    return _covered(made, real, _radii(real, k)), _covered(real, made, _radii(made, k))


def _radii(rows: Tensor, k: int) -> Tensor:
    # each row is its own nearest, at 0
    return torch.cat([near.kthvalue(k + 1, dim=1).values for _, near in _distances(rows, rows)])


def _covered(rows: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    # rounding must not push a row out of a ball that it bounds
    slack = 1e-12 * (1 + centres.double().square().sum(1).amax())
    return torch.cat([(near <= radii + slack).any(1) for _, near in _distances(rows, centres)])


def _distances(one: Tensor, other: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(one), CHUNK):
        rows = slice(start, min(start + CHUNK, len(one)))
        yield rows, squared_distances(one[rows], other)
