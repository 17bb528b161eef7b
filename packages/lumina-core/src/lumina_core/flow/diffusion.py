"""A path as a diffusion: its drift, and how much noise a stochastic sampler may stir in (SiT, arXiv 2401.08740)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.path import GVP, VP, Linear, spread

Form = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
"""How the stirring depends on time."""


def drift(path: Linear | GVP | VP, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(drift, variance) at x (B, ...) and time (B,): velocity = variance * score - drift.

    drift = -(alpha'/alpha) x and variance = (alpha'/alpha) sigma^2 - sigma sigma', of shape (B, 1, ...).
    """
    at = spread(time, x)
    ratio, sigma = path.log_alpha_slope(at), path.sigma(at)
    return -ratio * x, ratio * sigma.square() - sigma * path.sigma_slope(at)


def diffusion(path: Linear | GVP | VP, x: Tensor, time: Tensor, form: Form, norm: float = 1.0) -> Tensor:
    """The coefficient of the stirred noise at time (B,), of shape (B, 1, ...).

    Raises:
        ConfigError: the form has an unknown name.
    """
    at = spread(time, x)
    if form == "constant":
        return torch.full_like(at, norm)
    if form == "sbdm":
        return norm * drift(path, x, time)[1]
    if form == "sigma":
        return norm * path.sigma(at)
    if form == "linear":
        return norm * (1 - at)
    if form == "decreasing":
        return 0.25 * (norm * torch.cos(math.pi * at) + 1).square()
    if form == "increasing_decreasing":
        return norm * torch.sin(math.pi * at).square()
    raise ConfigError(f"a diffusion form is one of {', '.join(get_args(Form))}; got '{form}'")
