"""Nearest neighbours among features: ranks of the right one, precision and recall of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK_ROWS = 512
"""Rows whose distances are held at once."""


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """(M, D), (N, D) -> (M, N) squared distances in float64, good to about 1e-15 of the squared lengths; never below 0.

    Equal rows of `other` are equally far from a row of `one` to the last bit.
    """
    a, b = first.double(), second.double()
    center = b.mean(0)  # near their middle the lengths are small, and so is what rounds away
    a, b = a - center, b - center
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp_(min=0)


def target_ranks(generated: Tensor, target_index: Tensor, real: Tensor, tolerance: float = 0.0) -> Tensor:
    """How many real rows are nearer to each made one than the right one is, by more than `slack` of squared distance.

    Args:
        made: (M, D). right: (M,) which row of `real` each should show. real: (N, D).

    Returns:
        (M,) int64; 0: nothing is nearer. One exactly as near as the right one is not counted.
    """
    counts = [
        (distances < distances.gather(1, target_index[rows, None]) - tolerance).sum(1)
        for rows, distances in _distance_chunks(generated, real)
    ]
    return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64)


def nearest_in_group(generated: Tensor, real: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (M,) to the nearest real row of those that belong to each made one, and to the nearest other.

    Args:
        belongs: (M, N) bool. Where none belongs, or no other is there, the distance is infinite.
    """
    in_group, out_of_group = [], []
    for rows, distances in _distance_chunks(generated, real):
        in_group.append(distances.masked_fill(~membership[rows], torch.inf).amin(1))
        out_of_group.append(distances.masked_fill(membership[rows], torch.inf).amin(1))
    return torch.cat(in_group), torch.cat(out_of_group)


def family_ranks(
    generated: Tensor, target_index: Tensor, real: Tensor, families: Sequence[str], excluded: Tensor | None = None
) -> Tensor:
    """How many families have a member nearer to each made one than every member of its own family is.

    Args:
        made: (M, D). right: (M,) a real row of the family each should belong to. real: (N, D).
        families: for each of the N its family.
        spared: (M,) a real row each that is not looked at: itself, where real ones are asked after their own.

    Returns:
        (M,) int64; 0: the nearest of all is of its family. Where none of it is left to look at, all others count.
    """
    family_ids = {name: number for number, name in enumerate(dict.fromkeys(families))}
    family_index = torch.tensor([family_ids[name] for name in families])
    counts = [torch.zeros(0, dtype=torch.int64)]
    for rows, distances in _distance_chunks(generated, real):
        if excluded is not None:
            distances = distances.scatter(1, excluded[rows, None], torch.inf)
        family_distances = distances.new_full((len(distances), len(family_ids)), torch.inf)
        family_distances = family_distances.scatter_reduce(
            1, family_index.expand(len(distances), -1), distances, "amin"
        )
        counts.append((family_distances < family_distances.gather(1, family_index[target_index[rows], None])).sum(1))
    return torch.cat(counts)


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Which made rows lie in the balls around the real ones, and which real rows in those around the made ones.

    A ball reaches to its centre's k-th nearest neighbour of its own set (Kynkaanniemi et al., arXiv 1904.06991, k = 3).

    Returns:
        (M,) and (N,) bool; their means are precision and recall.

    Raises:
        ValueError: a set has no k-th neighbour.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"the {k}-th neighbour needs more than {k} in each set, got {len(generated)} and {len(real)}")
    return _in_balls(generated, real, _knn_radii(real, k)), _in_balls(real, generated, _knn_radii(generated, k))


def _knn_radii(rows: Tensor, k: int) -> Tensor:
    # each row is its own nearest, at 0
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for _, distances in _distance_chunks(rows, rows)])


def _in_balls(rows: Tensor, centers: Tensor, radii: Tensor) -> Tensor:
    # rounding must not push a row out of a ball that it bounds
    tolerance = 1e-12 * (1 + centers.double().square().sum(1).amax())
    return torch.cat([(distances <= radii + tolerance).any(1) for _, distances in _distance_chunks(rows, centers)])


def _distance_chunks(first: Tensor, second: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(first), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(first)))
        yield rows, squared_distances(first[rows], second)
