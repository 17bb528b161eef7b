"""Nearest neighbours among features: retrieval ranks, precision and recall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK_ROWS = 512
"""Rows whose distances are held at once."""


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Compute squared distances (M, N) of rows (M, D) and (N, D), float64, >= 0.

    The error is about 1e-15 of the squared lengths. Equal rows of `second` have bitwise equal distances.
    """
    a, b = first.double(), second.double()
    center = b.mean(0)  # near the centre the lengths are small, and so is the rounding error
    a, b = a - center, b - center
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp_(min=0)


def target_ranks(generated: Tensor, target_index: Tensor, real: Tensor, tolerance: float = 0.0) -> Tensor:
    """Count the real rows nearer to each generated row than its target is.

    Args:
        generated: (M, D).
        target_index: (M,) row of `real` that each should match.
        real: (N, D).
        tolerance: squared distance by which a row must be nearer to count.

    Returns:
        (M,) int64; 0: the target is the nearest. Ties are not counted.
    """
    counts = [
        (distances < distances.gather(1, target_index[rows, None]) - tolerance).sum(1)
        for rows, distances in _distance_chunks(generated, real)
    ]
    return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64)


def nearest_in_group(generated: Tensor, real: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
    """Compute squared distances (M,) to the nearest real row inside the group of each item, and outside it.

    Args:
        generated: (M, D).
        real: (N, D).
        membership: (M, N) bool, the group of each item. The distance to an empty set is infinite.
    """
    in_group, out_of_group = [], []
    for rows, distances in _distance_chunks(generated, real):
        in_group.append(distances.masked_fill(~membership[rows], torch.inf).amin(1))
        out_of_group.append(distances.masked_fill(membership[rows], torch.inf).amin(1))
    return torch.cat(in_group), torch.cat(out_of_group)


def family_ranks(
    generated: Tensor, target_index: Tensor, real: Tensor, families: Sequence[str], excluded: Tensor | None = None
) -> Tensor:
    """Count the families with a member nearer to each generated row than every member of its own family.

    Args:
        generated: (M, D).
        target_index: (M,) a real row of the family that each should belong to.
        real: (N, D).
        families: for each of the N the name of its family.
        excluded: (M,) index of the real row to exclude: the row itself, if real examples are ranked.

    Returns:
        (M,) int64; 0: the nearest real row is of its family. If no member of it is left, all other families count.
    """
    family_ids = {name: number for number, name in enumerate(dict.fromkeys(families))}
    family_index = torch.tensor([family_ids[name] for name in families])
    counts = [torch.zeros(0, dtype=torch.int64)]
    for rows, distances in _distance_chunks(generated, real):
        if excluded is not None:
            distances = distances.scatter(1, excluded[rows, None], torch.inf)
        index = family_index.expand(len(distances), -1)
        nearest = distances.new_full((len(distances), len(family_ids)), torch.inf)
        nearest = nearest.scatter_reduce(1, index, distances, "amin")
        counts.append((nearest < nearest.gather(1, family_index[target_index[rows], None])).sum(1))
    return torch.cat(counts)


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Find the generated rows inside the balls around the real ones, and the reverse.

    A ball reaches to the k-th nearest neighbour of its centre within its own set (arXiv 1904.06991, where k = 3).

    Returns:
        (M,) and (N,) bool; the means are precision and recall.

    Raises:
        ValueError: a set has no k-th neighbour.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"rows: got {len(generated)} and {len(real)}, expected more than k = {k} in each set")
    return _in_balls(generated, real, _knn_radii(real, k)), _in_balls(real, generated, _knn_radii(generated, k))


def _knn_radii(rows: Tensor, k: int) -> Tensor:
    # the nearest neighbour of a row is itself, at 0
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for _, distances in _distance_chunks(rows, rows)])


def _in_balls(rows: Tensor, centers: Tensor, radii: Tensor) -> Tensor:
    # rounding must not push a row out of a ball that it bounds
    tolerance = 1e-12 * (1 + centers.double().square().sum(1).amax())
    return torch.cat([(distances <= radii + tolerance).any(1) for _, distances in _distance_chunks(rows, centers)])


def _distance_chunks(first: Tensor, second: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(first), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(first)))
        yield rows, squared_distances(first[rows], second)
