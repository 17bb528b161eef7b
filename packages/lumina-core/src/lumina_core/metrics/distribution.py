"""How near a set of what was made is to the real ones: Frechet and kernel distance, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.metrics.retrieval_precision_recall import precision_recall
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric


@dataclass(frozen=True)
class Gaussian:
    """A mean (D,) and a root (D, K) of the covariance: covariance = root @ root.T; float64."""

    mean: Tensor
    cov_factor: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of a set of features.

    Args:
        features: (N, D), N > 1; the covariance divides by N - 1.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, got {len(features)}")
    rows = features.double()
    mean = rows.mean(0)
    centered = (rows - mean) / (len(rows) - 1) ** 0.5
    if len(rows) <= rows.shape[1]:
        return Gaussian(mean, centered.T)
    values, vectors = torch.linalg.eigh(centered.T @ centered)
    return Gaussian(mean, vectors * values.clamp(min=0).sqrt())


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); 0 for the same two, never below.

    The last trace is the sum of the singular values of root1.T @ root2, whose squares are the eigenvalues of C1 C2: no
    root of a product that is not symmetric is taken, nothing has to be added to its diagonal (our own way; the
    distance is Dowson and Landau's, 1982, as used in arXiv 1706.08500).
    """
    mean_distance = (first.mean - second.mean).square().sum()
    cross_trace = torch.linalg.svdvals(first.cov_factor.T @ second.cov_factor).sum()
    return max(
        0.0, float(mean_distance + first.cov_factor.square().sum() + second.cov_factor.square().sum() - 2 * cross_trace)
    )


CHUNK_ROWS = 1024
"""Rows that are compared at once."""


def kernel_distance(generated: Tensor, real: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy for the kernel (x y / D + 1)^3, as in KID (arXiv 1801.01401).

    0 is expected of two sets drawn alike, however few; a single figure may lie a little below.

    Args:
        made: (M, D). real: (N, D). More than one row each.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"a kernel distance needs 2 rows in each set, got {len(generated)} and {len(real)}")
    first, second = generated.double(), real.double()
    cross = _kernel_sum(first, second) / (len(first) * len(second))
    return _mean_self_kernel(first) + _mean_self_kernel(second) - 2 * cross


def _mean_self_kernel(rows: Tensor) -> float:
    # a row's likeness to itself says nothing of the set
    diagonal = float((rows.square().sum(1) / rows.shape[1] + 1).pow(3).sum())
    return (_kernel_sum(rows, rows) - diagonal) / (len(rows) * (len(rows) - 1))


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    dim = first.shape[1]
    return sum(
        float((first[start : start + CHUNK_ROWS] @ second.T / dim + 1).pow(3).sum())
        for start in range(0, len(first), CHUNK_ROWS)
    )


class FrechetDistance(Metric):
    """The Frechet distance between features of what was made and of the real ones it was asked for among.

    0 is best. It falls as more are compared, so that only figures of equally many compare, and of the same features.
    Features whose rows are several `pieces` of equal width give as many samples each.
    """

    value_name = "FD"
    """What the distance is called; what a modality knows better it calls so."""

    class Config(Settings):
        """By which features, and of how many at least."""

        feature_extractor: ComponentSpec
        min_samples: int = Field(50, ge=2, description="no distance is told of fewer things made")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor, self.min_samples = config, feature_extractor, config.min_samples
        self._real_gaussian: tuple[tuple[int, ...], Gaussian] | None = None

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """`FD`: one figure of the set."""
        return {
            self.value_name: frechet_distance(fit_gaussian(self._sample_rows(inputs.generated)), self._fit_real(inputs))
        }

    def notes(self, inputs: EvalInputs) -> list[str]:
        """That few samples make a distance larger than it is."""
        count, dim = self._sample_rows(inputs.generated).shape
        if count > dim:
            return []
        return [
            f"{self.value_name}, {self.feature_extractor.name}: {count} samples are fewer than its {dim} numbers, which makes it "
            "too large; compare it only with one of as many, or take KD"
        ]

    def _fit_real(self, inputs: EvalInputs) -> Gaussian:
        # the real ones are the same while parts of the made ones are left out
        cache_key = (inputs.real.data_ptr(), *inputs.reference_index.tolist())
        if self._real_gaussian is None or self._real_gaussian[0] != cache_key:
            self._real_gaussian = (cache_key, fit_gaussian(self._sample_rows(inputs.real[inputs.reference_index])))
        return self._real_gaussian[1]

    def _sample_rows(self, rows: Tensor) -> Tensor:
        pieces = self.feature_extractor.samples_per_row
        return rows.reshape(len(rows) * pieces, -1)


class KernelDistance(Metric):
    """The kernel distance between the same sets (KID, where the features are Inception's); few are enough."""

    min_samples = 10

    class Config(Settings):
        """By which features."""

        feature_extractor: ComponentSpec

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """`KD`: one figure of the set, about 0 where both are alike."""
        return {"KD": kernel_distance(inputs.generated, inputs.real[inputs.reference_index])}


class PrecisionRecall(Metric):
    """Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

    `precision`: the share of those made that lie where real ones are. `recall`: the share of real ones that lie where
    made ones are; it needs about as many made as there are real ones.
    """

    class Config(Settings):
        """By which features, and how far a neighbourhood reaches."""

        feature_extractor: ComponentSpec
        k: int = Field(3, ge=1, le=100, description="to which neighbour of its own set the ball around each reaches")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor
        self.min_samples = config.k + 2

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1, and one figure of the set."""
        is_precise, is_recalled = precision_recall(inputs.generated, inputs.real[inputs.reference_index], self.config.k)
        return {"precision": is_precise.double(), "recall": float(is_recalled.double().mean())}
