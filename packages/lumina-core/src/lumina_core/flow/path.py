"""Probability paths from noise (t = 0) to data (t = 1), their derivatives, and conversions of predictions."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import BoundedPath, ProbPath

PredictionType = Literal["velocity", "data", "noise", "score"]
"""Prediction of a network: the velocity dx/dt, the clean data, the noise, or the score (the gradient of log p_t)."""


class LinearPath:
    """alpha = t, sigma = 1 - t: straight lines (rectified flow), the path of Lumina-Next."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return 1 / t


class GVPPath:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): the variance stays one (SiT, arXiv 2401.08740)."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def d_alpha(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * math.pi / 2)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * math.pi / 2)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(t * math.pi / 2)


class VPPath:
    """Variance-preserving diffusion of score models, with time reversed so that t = 1 is data.

    alpha = exp(-(1-t)^2 (b1 - b0) / 4 - (1-t) b0 / 2), sigma = sqrt(1 - alpha^2), with b from 0.1 to 20. The derivative
    of sigma is infinite at t = 1; training and conversions of predictions stay away from it, as in SiT.
    """

    class Config(Settings):
        """Ends of beta, and distances from t = 1."""

        beta_min: float = Field(0.1, description="beta at data (t = 1)")
        beta_max: float = Field(20.0, description="beta at noise (t = 0)")
        train_eps: float = Field(1e-5, ge=0, lt=0.5, description="times for training end at 1 - train_eps")
        sample_eps: float = Field(
            1e-3,
            ge=0,
            lt=0.5,
            description="coefficients of conversions and of the SDE are those of at most 1 - sample_eps",
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.train_eps, self.sample_eps = config.train_eps, config.sample_eps

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        # expm1: near data 1 - alpha^2 would lose its digits
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t) * self.d_log_alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t).square() * self.d_log_alpha(t) / self.sigma(t)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return 0.5 * (1 - t) * (self.config.beta_max - self.config.beta_min) + 0.5 * self.config.beta_min

    def _log_alpha(self, t: Tensor) -> Tensor:
        s = 1 - t
        return -0.25 * s.square() * (self.config.beta_max - self.config.beta_min) - 0.5 * s * self.config.beta_min


def expand_t(t: Tensor, like: Tensor) -> Tensor:
    """Reshape time (B,) to (B, 1, ...), to be multiplied with `like` (B, ...)."""
    return t.view(-1, *[1] * (like.ndim - 1))


def train_time(path: ProbPath, t: Tensor) -> Tensor:
    """Map times from 0..1 to the interval that a path is trained on, 0..1 - train_eps."""
    return t * (1 - path.train_eps) if isinstance(path, BoundedPath) else t


def _sample_time(path: ProbPath, t: Tensor, like: Tensor) -> Tensor:
    """Limit times to 1 - sample_eps and reshape them as `expand_t` does."""
    return expand_t(t.clamp(max=1 - path.sample_eps) if isinstance(path, BoundedPath) else t, like)


def sample_x_t(path: ProbPath, noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Compute x_t = alpha(t) data + sigma(t) noise for (B, ...) and time (B,)."""
    t_expanded = expand_t(t, data)
    return path.alpha(t_expanded) * data + path.sigma(t_expanded) * noise


def velocity_target(path: ProbPath, noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Compute dx_t/dt = alpha'(t) data + sigma'(t) noise."""
    t_expanded = expand_t(t, data)
    return path.d_alpha(t_expanded) * data + path.d_sigma(t_expanded) * noise


def convert_prediction(
    path: ProbPath,
    value: Tensor,
    x: Tensor,
    t: Tensor,
    source: PredictionType,
    target: PredictionType,
    min_coef: float = 0.0,
) -> Tensor:
    """Convert a prediction into another one.

    All follow from one linear system, x = alpha data + sigma noise and v = alpha' data + sigma' noise, with
    score = -noise / sigma. Where a coefficient vanishes at an end of the path the result is infinite, unless `min_coef`
    keeps it from 0.

    Args:
        path: alpha and sigma.
        value: (B, ...), the prediction at x.
        x: (B, ...).
        t: (B,).
        source, target: types of prediction.
        min_coef: lower bound of alpha and sigma (JiT, arXiv 2511.13720, takes 0.05 for data -> velocity).

    Raises:
        ConfigError: a type of prediction is unknown.
    """
    for name in (source, target):
        if name not in get_args(PredictionType):
            raise ConfigError(f"prediction: got '{name}', expected one of {', '.join(get_args(PredictionType))}")
    if source == target:
        return value
    t_expanded = _sample_time(path, t, x)
    data, noise = _data_and_noise(path, value, x, t_expanded, source, min_coef)
    if target == "data":
        return data
    if target == "noise":
        return noise
    if target == "score":
        return -noise / path.sigma(t_expanded).clamp_min(min_coef)
    return path.d_alpha(t_expanded) * data + path.d_sigma(t_expanded) * noise


def _data_and_noise(
    path: ProbPath, value: Tensor, x: Tensor, t: Tensor, source: PredictionType, min_coef: float
) -> tuple[Tensor, Tensor]:
    """Return (data, noise) that a prediction at x implies."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    if source == "data":
        return value, (x - alpha * value) / sigma.clamp_min(min_coef)
    if source in ("noise", "score"):
        noise = value if source == "noise" else -sigma * value
        return (x - sigma * noise) / alpha.clamp_min(min_coef), noise
    d_alpha, d_sigma = path.d_alpha(t), path.d_sigma(t)
    # never 0 on these paths: it is 1 for linear and pi/2 for GVP
    determinant = d_alpha * sigma - alpha * d_sigma
    return (sigma * value - d_sigma * x) / determinant, (d_alpha * x - alpha * value) / determinant


DiffusionForm = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
"""Time dependence of the diffusion coefficient (SiT, arXiv 2401.08740)."""


def compute_drift(path: LinearPath | GVPPath | VPPath, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (drift, variance) at x (B, ...) and time (B,), with velocity = variance * score - drift.

    drift = -(alpha'/alpha) x and variance = (alpha'/alpha) sigma^2 - sigma sigma', of shape (B, 1, ...).
    """
    t_expanded = _sample_time(path, t, x)
    ratio, sigma = path.d_log_alpha(t_expanded), path.sigma(t_expanded)
    return -ratio * x, ratio * sigma.square() - sigma * path.d_sigma(t_expanded)


def compute_diffusion(
    path: LinearPath | GVPPath | VPPath, x: Tensor, t: Tensor, form: DiffusionForm, norm: float = 1.0
) -> Tensor:
    """Compute the diffusion coefficient of the SDE at time (B,), of shape (B, 1, ...).

    Raises:
        ConfigError: the form is unknown.
    """
    t_expanded = expand_t(t, x)
    if form == "constant":
        return torch.full_like(t_expanded, norm)
    if form == "sbdm":
        return norm * compute_drift(path, x, t)[1]
    if form == "sigma":
        return norm * path.sigma(t_expanded)
    if form == "linear":
        return norm * (1 - t_expanded)
    if form == "decreasing":
        return 0.25 * (norm * torch.cos(math.pi * t_expanded) + 1).square()
    if form == "increasing_decreasing":
        return norm * torch.sin(math.pi * t_expanded).square()
    raise ConfigError(f"diffusion form: got '{form}', expected one of {', '.join(get_args(DiffusionForm))}")
