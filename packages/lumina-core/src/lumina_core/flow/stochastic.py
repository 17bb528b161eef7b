"""Sampling with noise stirred in on the way: dx = (velocity + w score) dt + sqrt(2 w) dW (SiT, arXiv 2401.08740).

Every w(t) >= 0 leaves the distribution at each time as it is, so w may be chosen freely, and limited where it would
break a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.flow.diffusion import Form, diffusion
from lumina_core.flow.path import GVP, VP, Linear, convert
from lumina_core.parts import Velocity

Draw = Callable[[], Tensor]


class Stochastic:
    """Euler-Maruyama or Heun steps along the stirred flow; the last step of the grid draws no noise.

    Published forms are infinite at t = 0 (sbdm) or break near t = 1 (constant); here w * step is at most `limit` *
    sigma^2, so that no step overshoots what it heads for (our own proposal; a limit of null is as published).
    """

    class Config(Settings):
        """How much is stirred in, and when."""

        method: Literal["euler", "heun"] = Field("euler", description="euler: one evaluation a step; heun: two")
        form: Form = Field("sigma", description="how w depends on time")
        norm: float = Field(1.0, ge=0, description="how much; 0 stirs nothing and is the solver without noise")
        last: Literal["tweedie", "euler", "mean", "none"] = Field(
            "tweedie",
            description="the last step: to the expected data, along the velocity, along velocity and score, or none",
        )
        limit: float | None = Field(0.5, gt=0, description="largest w * step / sigma^2; null: none")
        path: Use = Field(Use(use="core.linear"), description="the model's; filled in")

    def __init__(self, config: Config, path: Linear | GVP | VP) -> None:
        self.config, self.path = config, path

    def init(self, draw: Draw | None) -> Draw:
        """Noise is what the steps carry.

        Raises:
            ConfigError: nobody draws noise here.
        """
        if draw is None:
            raise ConfigError("a stochastic solver needs noise; from data to noise take one without, such as core.heun")
        return draw

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, carried: Draw) -> tuple[Tensor, Draw]:
        if float(u) == 1:
            return self.last_step(velocity, x, t, u), carried
        stirred = self.stir(x, t, u, carried())
        return self.drifted(velocity, stirred, x, t, u), carried

    def stir(self, x: Tensor, t: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """x with the noise of a step from t to u."""
        return x + math.sqrt(2 * self.strength(t, u) * float(u - t)) * noise

    def drifted(self, velocity: Velocity, stirred: Tensor, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """What velocity and score add to x that was stirred; Heun asks at the stirred place, Euler before it."""
        step = u - t
        if self.config.method == "euler":
            return stirred + step * self.drift(velocity, x, t, self.strength(t, u))
        first = self.drift(velocity, stirred, t, self.strength(t, u))
        second = self.drift(velocity, stirred + step * first, u, self.strength(u, u + step))
        return stirred + step / 2 * (first + second)

    def drift(self, velocity: Velocity, x: Tensor, t: Tensor, strength: float) -> Tensor:
        """velocity + strength * score."""
        known = velocity(x, t)
        by_velocity, by_x = self.score(t)
        return (1 + strength * by_velocity) * known + strength * by_x * x

    def last_step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """From t to the end, without noise."""
        if self.config.last == "none":
            return x
        if self.config.last == "mean":
            return x + (u - t) * self.drift(velocity, x, t, self.strength(t, u))
        known = velocity(x, t)
        if self.config.last == "euler":
            return x + (u - t) * known
        by_velocity, by_x = self.linear(t, "data")
        return by_velocity * known + by_x * x

    def strength(self, t: Tensor, u: Tensor) -> float:
        """w of a step from t to u."""
        if self.config.norm == 0:
            return 0.0
        at = t.double().reshape(1)
        wanted = float(diffusion(self.path, at, at, self.config.form, self.config.norm))
        if self.config.limit is None:
            return wanted
        most = self.config.limit * float(self.path.sigma(at)) ** 2 / float(u - t)
        return min(wanted, most) if math.isfinite(wanted) else most

    def score(self, t: Tensor) -> tuple[float, float]:
        """(a, b) of score = a velocity + b x at a time."""
        return self.linear(t, "score")

    def linear(self, t: Tensor, target: Literal["score", "data"]) -> tuple[float, float]:
        """(a, b) of target = a velocity + b x at a time: whatever follows from a velocity is linear in it."""
        at = t.double().reshape(1)
        one, zero = torch.ones_like(at), torch.zeros_like(at)
        by_velocity = convert(self.path, one, zero, at, "velocity", target)
        by_x = convert(self.path, zero, one, at, "velocity", target)
        return float(by_velocity), float(by_x)
