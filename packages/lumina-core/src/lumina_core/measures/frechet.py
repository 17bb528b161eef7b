"""The Frechet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """A mean (D,) and a root (D, K) of the covariance: covariance = root @ root.T; float64."""

    mean: Tensor
    root: Tensor


def fit(features: Tensor) -> Gaussian:
    """The Gaussian of a set of features.

    Args:
        features: (N, D), N > 1; the covariance divides by N - 1.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, got {len(features)}")
    wide = features.double()
    mean = wide.mean(0)
    spread = (wide - mean) / (len(wide) - 1) ** 0.5
    if len(wide) <= wide.shape[1]:
        return Gaussian(mean, spread.T)
    values, vectors = torch.linalg.eigh(spread.T @ spread)
    return Gaussian(mean, vectors * values.clamp(min=0).sqrt())


def frechet(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); 0 for the same two, never below.

    The last trace is the sum of the singular values of root1.T @ root2, whose squares are the eigenvalues of C1 C2: no
    root of a product that is not symmetric is taken, nothing has to be added to its diagonal (our own way; the
    distance is Dowson and Landau's, 1982, as used in arXiv 1706.08500).
    """
    apart = (one.mean - other.mean).square().sum()
    shared = torch.linalg.svdvals(one.root.T @ other.root).sum()
    return max(0.0, float(apart + one.root.square().sum() + other.root.square().sum() - 2 * shared))
