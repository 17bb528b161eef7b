"""The road between noise (t = 0) and data (t = 1), its slope, and what a network may predict along it."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.parts import Path_

Prediction = Literal["velocity", "data", "noise", "score"]
"""What a network answers: the velocity dx/dt, the clean data, the noise, or the score (the gradient of log p_t)."""


class Linear:
    """alpha = t, sigma = 1 - t: straight lines (rectified flow), the path of Lumina-Next."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, time: Tensor) -> Tensor:
        return time

    def sigma(self, time: Tensor) -> Tensor:
        return 1 - time

    def alpha_slope(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)

    def sigma_slope(self, time: Tensor) -> Tensor:
        return -torch.ones_like(time)

    def log_alpha_slope(self, time: Tensor) -> Tensor:
        return 1 / time


class GVP:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): the variance stays one (SiT, arXiv 2401.08740)."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, time: Tensor) -> Tensor:
        return torch.sin(time * math.pi / 2)

    def sigma(self, time: Tensor) -> Tensor:
        return torch.cos(time * math.pi / 2)

    def alpha_slope(self, time: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(time * math.pi / 2)

    def sigma_slope(self, time: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(time * math.pi / 2)

    def log_alpha_slope(self, time: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(time * math.pi / 2)


class VP:
    """The variance-preserving diffusion of score models, its time turned round so that t = 1 is data.

    alpha = exp(-(1-t)^2 (b1 - b0) / 4 - (1-t) b0 / 2), sigma = sqrt(1 - alpha^2), with b from 0.1 to 20.
    """

    class Config(Settings):
        """The ends of beta."""

        beta_min: float = Field(0.1, description="beta at data (t = 1)")
        beta_max: float = Field(20.0, description="beta at noise (t = 0)")

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, time: Tensor) -> Tensor:
        return self._log_alpha(time).exp()

    def sigma(self, time: Tensor) -> Tensor:
        # expm1: near data 1 - alpha^2 would lose its digits
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(time)))

    def alpha_slope(self, time: Tensor) -> Tensor:
        return self.alpha(time) * self.log_alpha_slope(time)

    def sigma_slope(self, time: Tensor) -> Tensor:
        return -self.alpha(time).square() * self.log_alpha_slope(time) / self.sigma(time)

    def log_alpha_slope(self, time: Tensor) -> Tensor:
        rest = 1 - time
        return 0.5 * rest * (self.config.beta_max - self.config.beta_min) + 0.5 * self.config.beta_min

    def _log_alpha(self, time: Tensor) -> Tensor:
        rest = 1 - time
        return -0.25 * rest.square() * (self.config.beta_max - self.config.beta_min) - 0.5 * rest * self.config.beta_min


def spread(time: Tensor, like: Tensor) -> Tensor:
    """time (B,) as (B, 1, ...), to be multiplied with `like` (B, ...)."""
    return time.view(-1, *[1] * (like.ndim - 1))


def mix(path: Path_, noise: Tensor, data: Tensor, time: Tensor) -> Tensor:
    """x_t = alpha(t) data + sigma(t) noise, for (B, ...) and time (B,)."""
    at = spread(time, data)
    return path.alpha(at) * data + path.sigma(at) * noise


def velocity_between(path: Path_, noise: Tensor, data: Tensor, time: Tensor) -> Tensor:
    """dx_t/dt = alpha'(t) data + sigma'(t) noise."""
    at = spread(time, data)
    return path.alpha_slope(at) * data + path.sigma_slope(at) * noise


def convert(
    path: Path_, value: Tensor, x: Tensor, time: Tensor, source: Prediction, target: Prediction, floor: float = 0.0
) -> Tensor:
    """What a network predicted at x (B, ...) and time (B,) as another prediction.

    All of them follow from one linear system: x = alpha data + sigma noise and v = alpha' data + sigma' noise, with
    score = -noise / sigma. Where a coefficient vanishes at an end of the path the answer is infinite, unless `floor`
    keeps alpha or sigma away from 0 (JiT, arXiv 2511.13720, takes 0.05 for data -> velocity).

    Raises:
        ConfigError: a prediction has an unknown name.
    """
    for name in (source, target):
        if name not in get_args(Prediction):
            raise ConfigError(f"a prediction is one of {', '.join(get_args(Prediction))}; got '{name}'")
    if source == target:
        return value
    at = spread(time, x)
    data, noise = _ends(path, value, x, at, source, floor)
    if target == "data":
        return data
    if target == "noise":
        return noise
    if target == "score":
        return -noise / path.sigma(at).clamp_min(floor)
    return path.alpha_slope(at) * data + path.sigma_slope(at) * noise


def _ends(path: Path_, value: Tensor, x: Tensor, at: Tensor, source: Prediction, floor: float) -> tuple[Tensor, Tensor]:
    """(data, noise) that a prediction at x speaks of."""
    alpha, sigma = path.alpha(at), path.sigma(at)
    if source == "data":
        return value, (x - alpha * value) / sigma.clamp_min(floor)
    if source in ("noise", "score"):
        noise = value if source == "noise" else -sigma * value
        return (x - sigma * noise) / alpha.clamp_min(floor), noise
    alpha_slope, sigma_slope = path.alpha_slope(at), path.sigma_slope(at)
    # never 0 on these paths: it is 1 for linear and pi/2 for GVP
    determinant = alpha_slope * sigma - alpha * sigma_slope
    return (sigma * value - sigma_slope * x) / determinant, (alpha_slope * x - alpha * value) / determinant
