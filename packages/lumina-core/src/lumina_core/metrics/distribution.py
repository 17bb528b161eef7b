"""Metrics of sets: Frechet and kernel distance, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.metrics.base import MetricConfig
from lumina_core.metrics.retrieval_precision_recall import precision_recall
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

CHUNK_ROWS = 1024
"""Rows whose kernel values are held at once."""


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and a factor (D, K) of the covariance: covariance = factor @ factor.T; float64."""

    mean: Tensor
    cov_factor: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Fit a Gaussian to features (N, D), N > 1; the covariance divides by N - 1.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"features: got {len(features)} rows, expected at least 2 for a covariance")
    rows = features.double()
    mean = rows.mean(0)
    centered = (rows - mean) / (len(rows) - 1) ** 0.5
    if len(rows) <= rows.shape[1]:
        return Gaussian(mean, centered.T)
    values, vectors = torch.linalg.eigh(centered.T @ centered)
    return Gaussian(mean, vectors * values.clamp(min=0).sqrt())


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Compute |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): 0 for equal Gaussians, never negative.

    The last trace is the sum of the singular values of factor1.T @ factor2, whose squares are the eigenvalues of C1 C2.
    No root of an asymmetric product is taken, and nothing is added to its diagonal. The distance is that of Dowson and
    Landau (1982), as used in arXiv 1706.08500; this computation of it is our own.
    """
    mean_distance = (first.mean - second.mean).square().sum()
    variances = first.cov_factor.square().sum() + second.cov_factor.square().sum()
    cross_trace = torch.linalg.svdvals(first.cov_factor.T @ second.cov_factor).sum()
    return max(0.0, float(mean_distance + variances - 2 * cross_trace))


def kernel_distance(generated: Tensor, real: Tensor) -> float:
    """Compute the unbiased squared maximum mean discrepancy of the kernel (x y / D + 1)^3: KID (arXiv 1801.01401).

    Its expectation is 0 for two samples of one distribution, of any size; a single value may be slightly negative.

    Args:
        generated: (M, D), M > 1.
        real: (N, D), N > 1.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"kernel distance: got {len(generated)} and {len(real)} rows, expected at least 2 of each")
    first, second = generated.double(), real.double()
    cross = _kernel_sum(first, second) / (len(first) * len(second))
    return _mean_self_kernel(first) + _mean_self_kernel(second) - 2 * cross


def _mean_self_kernel(rows: Tensor) -> float:
    # unbiased: without the pairs of a row with itself
    diagonal = float((rows.square().sum(1) / rows.shape[1] + 1).pow(3).sum())
    return (_kernel_sum(rows, rows) - diagonal) / (len(rows) * (len(rows) - 1))


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    return sum(float((chunk @ second.T / first.shape[1] + 1).pow(3).sum()) for chunk in first.split(CHUNK_ROWS))


class FrechetDistance(Metric):
    """Frechet distance between the features of generated and of real examples; 0 is best.

    The distance falls as the number of samples grows: compare only values of equally many samples and of the same
    features. By Inception's features it is FID; by those of VGGish it is the Frechet audio distance FAD (arXiv
    1812.08466). If a row holds several samples (`FeatureExtractor.samples_per_row`), each counts.
    """

    class Config(MetricConfig):
        """Features, and the smallest number of samples."""

        min_samples: int = Field(50, ge=2, description="smallest number of generated examples")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor, self.min_samples = config, feature_extractor, config.min_samples
        self._real: tuple[Tensor, Tensor, Gaussian] | None = None

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `FD` (or the name that the features give it), a score of the set."""
        generated = fit_gaussian(self._sample_rows(inputs.generated))
        return {self.feature_extractor.frechet_name: frechet_distance(generated, self._fit_real(inputs))}

    def notes(self, inputs: EvalInputs) -> list[str]:
        """Warn that few samples make the distance too large."""
        count, dim = self._sample_rows(inputs.generated).shape
        if count > dim:
            return []
        return [
            f"{self.feature_extractor.frechet_name}, {self.feature_extractor.name}: {count} samples are fewer than the "
            f"{dim} features, which makes it too large; compare it only with one of as many samples, or use KD"
        ]

    def _fit_real(self, inputs: EvalInputs) -> Gaussian:
        # the real examples are the same for every jackknife block; both tensors are held, so neither can be another one
        if self._real is None or self._real[0] is not inputs.real or self._real[1] is not inputs.reference_index:
            gaussian = fit_gaussian(self._sample_rows(inputs.real[inputs.reference_index]))
            self._real = (inputs.real, inputs.reference_index, gaussian)
        return self._real[2]

    def _sample_rows(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows) * self.feature_extractor.samples_per_row, -1)


class KernelDistance(Metric):
    """Kernel distance between the features of generated and of real examples (KID if they are Inception's)."""

    min_samples = 10
    Config = MetricConfig

    def __init__(self, config: MetricConfig, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `KD`, a score of the set, about 0 for equal distributions."""
        return {"KD": kernel_distance(inputs.generated, inputs.real[inputs.reference_index])}


class PrecisionRecall(Metric):
    """Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

    `precision` is the fraction of generated examples inside the manifold of the real ones; `recall` is the fraction of
    real examples inside that of the generated ones, and needs about as many generated as real examples.
    """

    class Config(MetricConfig):
        """Features, and the size of a neighbourhood."""

        k: int = Field(3, ge=1, le=100, description="neighbour within its own set that bounds the ball of an example")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor
        self.min_samples = config.k + 2

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `precision` (M,) of 0 and 1, and `recall`, a score of the set."""
        is_precise, is_recalled = precision_recall(inputs.generated, inputs.real[inputs.reference_index], self.config.k)
        return {"precision": is_precise.double(), "recall": float(is_recalled.double().mean())}
