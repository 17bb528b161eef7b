"""Features of coordinates at the input of the network: linear, and Fourier features for any number of points.

Fourier features of a coordinate p are sin(w_k p) and cos(w_k p) with w_k = base * 2^k, k < K (Tancik et al.,
arXiv 2006.10739). Lumina-Next adds a "time-aware scaled Fourier feature" for more points than in training (section
3.4); its formula is not published. The version here follows the paper's time-aware scaled RoPE: with s = (N' / N)^(1/d)
times as many points along a direction, and k_t = (K - 1) t + 1,

    w_k(t) = max(w_k s^(-k / k_t), w_k / s).

Near noise (t = 0) all frequencies but the first are those of interpolation, w_k / s; near data the low ones keep their
trained values, and the high ones approach w_k / s.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings


class CoordinateFeatures(Protocol):
    """Coordinates of points -> features, computed in float32; without weights."""

    def width(self, dim: int) -> int:
        """Return the number of features of a point with `dim` coordinates."""
        ...

    def __call__(self, points: Tensor, t: Tensor | None, ratio: Tensor | None) -> Tensor:
        """Compute features (B, N, width).

        Args:
            points: (B, N, D) noisy coordinates of the latent.
            t: (B,) time, 0 noise to 1 data; None: 1.
            ratio: (B,) points of the cloud over points in training; None: 1.
        """
        ...


class LinearFeatures:
    """The coordinates themselves."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def width(self, dim: int) -> int:
        """Return D."""
        return dim

    def __call__(self, points: Tensor, t: Tensor | None, ratio: Tensor | None) -> Tensor:
        """Return the coordinates (B, N, D)."""
        return points


class FourierFeatures:
    """Coordinates, and their sines and cosines at frequencies that double; the same for any number of points."""

    class Config(Settings):
        """Frequencies."""

        num_frequencies: int = Field(7, ge=1, le=16, description="frequencies per axis")
        min_frequency: float = Field(
            math.pi / 4, gt=0, description="lowest frequency, in radians per unit of the latent; each next one doubles"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def width(self, dim: int) -> int:
        """Return D + 2 K D: coordinates, sines, cosines."""
        return dim * (1 + 2 * self.config.num_frequencies)

    def __call__(self, points: Tensor, t: Tensor | None, ratio: Tensor | None) -> Tensor:
        """Compute (B, N, D + 2 K D): coordinates, sines, cosines."""
        points = points.float()
        index = torch.arange(self.config.num_frequencies, device=points.device, dtype=torch.float32)
        freqs = (self.config.min_frequency * 2**index).expand(len(points), -1)
        if ratio is not None:
            freqs = self.scaled(freqs, index, torch.ones_like(ratio) if t is None else t.to(ratio), ratio)
        angles = (points[..., None] * freqs[:, None, None]).flatten(2)
        return torch.cat([points, angles.sin(), angles.cos()], dim=-1)

    def scaled(self, freqs: Tensor, index: Tensor, t: Tensor, ratio: Tensor) -> Tensor:
        """Return the frequencies (B, K) for clouds with `ratio` (B,) times the points of training, at time t (B,)."""
        return freqs


class ScaledFourierConfig(FourierFeatures.Config):
    """Frequencies, and the dimension of what the points lie on."""

    surface_dim: int = Field(2, ge=1, le=3, description="dimension of what the points fill: 2 for surfaces")


class InterpolatedFourierFeatures(FourierFeatures):
    """Fourier features whose frequencies are divided by the ratio of points per direction."""

    Config = ScaledFourierConfig
    config: ScaledFourierConfig

    def scaled(self, freqs: Tensor, index: Tensor, t: Tensor, ratio: Tensor) -> Tensor:
        """Return w_k / s, s = ratio^(1 / surface_dim), for ratios above 1."""
        return freqs / _side_ratio(ratio, self.config.surface_dim)


class TimeAwareFourierFeatures(FourierFeatures):
    """Time-aware scaled Fourier features: interpolation near noise, trained low frequencies near data."""

    Config = ScaledFourierConfig
    config: ScaledFourierConfig

    def scaled(self, freqs: Tensor, index: Tensor, t: Tensor, ratio: Tensor) -> Tensor:
        """Return max(w_k s^(-k / k_t), w_k / s) with k_t = (K - 1) t + 1, for ratios above 1."""
        side = _side_ratio(ratio, self.config.surface_dim)
        divisor_index = (len(index) - 1) * t[:, None] + 1
        return torch.maximum(freqs * side ** (-index / divisor_index), freqs / side)


def _side_ratio(ratio: Tensor, surface_dim: int) -> Tensor:
    """Return points per direction over those of training (B, 1), at least 1."""
    return ratio.clamp(min=1)[:, None] ** (1 / surface_dim)
