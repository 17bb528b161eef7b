"""Conventions of the released sound models (lumina_music), each a part: their path, draw of times, grid and backbone.

Their time runs as ours does, from noise at 0 to data at 1 (ddpm_audio.py, class CFM). What differs: the path keeps a
trace of noise, the network is told whole thousandths, and grids are made in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.flow.times import checked, equal_steps
from lumina_core.nn.flag_dit import FlagDiT
from lumina_core.types import Condition, Hidden, Tokens

THOUSAND = 1000
"""Steps of their diffusion (`timesteps`), by which the network's times are counted."""


class TracePath:
    """alpha = t, sigma = 1 - (1 - s) t: straight lines that end at data with a trace s of noise (arXiv 2210.02747).

    The velocity is data - (1 - s) noise, at every time.
    """

    class Config(Settings):
        """How much noise is left."""

        sigma_min: float = Field(1e-4, ge=0, lt=1, description="noise left at data (published: 1e-4)")

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, time: Tensor) -> Tensor:
        return time

    def sigma(self, time: Tensor) -> Tensor:
        return 1 - (1 - self.config.sigma_min) * time

    def alpha_slope(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)

    def sigma_slope(self, time: Tensor) -> Tensor:
        return torch.full_like(time, self.config.sigma_min - 1)

    def log_alpha_slope(self, time: Tensor) -> Tensor:
        return 1 / time


class Thousandths:
    """Every whole thousandth from 0 to 0.999 alike, as their training draws it."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        drawn = [torch.randint(THOUSAND, (), generator=generator) for generator in generators]
        return from_whole(torch.stack(drawn))


class Float32Grid:
    """Equal steps, rounded to float32 as `torch.linspace` makes them.

    A rounding decides which thousandth the network is told: at 25 steps the sixth time is 199, not 200.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        equal_steps(steps)  # says what is wrong with a number of steps
        return checked(torch.linspace(0, 1, steps + 1, dtype=torch.float32).double())


class WholeTimeFlagDiT(FlagDiT):
    """Flag-DiT as the sound models have it: told whole times from 0 to 999, its places perhaps pressed together."""

    class Config(FlagDiT.Config):
        """Sizes, and how far apart tokens stand."""

        stretch: float = Field(1.0, gt=0, description="places are divided by it (their rope_scaling_factor)")

    config: Config

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies, of places that are divided by `stretch`."""
        return tuple(rates / self.config.stretch for rates in super().frequencies(device))

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition, *, prepared: Any = None) -> Hidden:
        """Noisy tokens (B, N, D) at time (B,) in 0..1, which the network is told as whole thousandths."""
        told = None if time is None else to_whole(time)
        return super().forward(tokens, told, condition, prepared=prepared)


def to_whole(time: Tensor) -> Tensor:
    """time in 0..1 -> whole thousandths as float32: cut off, not rounded, after a product in float32."""
    return (time.float() * THOUSAND).trunc()


def from_whole(whole: Tensor) -> Tensor:
    """Whole thousandths -> the smallest float32 at least their thousandth that `to_whole` gives back."""
    time = whole.float() / THOUSAND
    return torch.where(to_whole(time) < whole, torch.nextafter(time, torch.ones_like(time)), time)
