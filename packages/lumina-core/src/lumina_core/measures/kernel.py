"""The kernel distance between two sets of features, which few of them do not make larger."""

from __future__ import annotations

from torch import Tensor

CHUNK = 1024
"""Rows that are compared at once."""


def kernel_distance(made: Tensor, real: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy for the kernel (x y / D + 1)^3, as in KID (arXiv 1801.01401).

    0 is expected of two sets drawn alike, however few; a single figure may lie a little below.

    Args:
        made: (M, D). real: (N, D). More than one row each.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(made), len(real)) < 2:
        raise ValueError(f"a kernel distance needs 2 rows in each set, got {len(made)} and {len(real)}")
    one, other = made.double(), real.double()
    across = _sum(one, other) / (len(one) * len(other))
    return _within(one) + _within(other) - 2 * across


def _within(rows: Tensor) -> float:
    # a row's likeness to itself says nothing of the set
    own = float((rows.square().sum(1) / rows.shape[1] + 1).pow(3).sum())
    return (_sum(rows, rows) - own) / (len(rows) * (len(rows) - 1))


def _sum(one: Tensor, other: Tensor) -> float:
    width = one.shape[1]
    return sum(
        float((one[start : start + CHUNK] @ other.T / width + 1).pow(3).sum()) for start in range(0, len(one), CHUNK)
    )
