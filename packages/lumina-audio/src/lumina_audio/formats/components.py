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
from lumina_core.flow.schedules import uniform_times, validate_schedule
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.types import BackboneOutput, Condition, Tokens

NUM_TIMESTEPS = 1000
"""Steps of their diffusion (`timesteps`), by which the network's times are counted."""


class CFMPath:
    """alpha = t, sigma = 1 - (1 - s) t: straight lines that end at data with a trace s of noise (arXiv 2210.02747).

    The velocity is data - (1 - s) noise, at every time.
    """

    class Config(Settings):
        """How much noise is left."""

        sigma_min: float = Field(1e-4, ge=0, lt=1, description="noise left at data (published: 1e-4)")

    def __init__(self, config: Config) -> None:
        self.config = config

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.config.sigma_min) * t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.config.sigma_min - 1)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        return 1 / t


class DiscreteTimeSampler:
    """Every whole thousandth from 0 to 0.999 alike, as their training draws it."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        timesteps = [torch.randint(NUM_TIMESTEPS, (), generator=generator) for generator in generators]
        return from_timestep(torch.stack(timesteps))


class Float32Schedule:
    """Equal steps, rounded to float32 as `torch.linspace` makes them.

    A rounding decides which thousandth the network is told: at 25 steps the sixth time is 199, not 200.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        uniform_times(steps)  # says what is wrong with a number of steps
        return validate_schedule(torch.linspace(0, 1, steps + 1, dtype=torch.float32).double())


class DiscreteTimeFlagDiT(FlagDiTBackbone):
    """Flag-DiT as the sound models have it: told whole times from 0 to 999, its places perhaps pressed together."""

    class Config(FlagDiTBackbone.Config):
        """Sizes, and how far apart tokens stand."""

        rope_scaling_factor: float = Field(
            1.0, gt=0, description="places are divided by it (their rope_scaling_factor)"
        )

    config: Config

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies, of places that are divided by `stretch`."""
        return tuple(freqs / self.config.rope_scaling_factor for freqs in super().frequencies(device))

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None
    ) -> BackboneOutput:
        """Noisy tokens (B, N, D) at time (B,) in 0..1, which the network is told as whole thousandths."""
        timestep = None if t is None else to_timestep(t)
        return super().forward(tokens, timestep, condition, precomputed=precomputed)


def to_timestep(t: Tensor) -> Tensor:
    """time in 0..1 -> whole thousandths as float32: cut off, not rounded, after a product in float32."""
    return (t.float() * NUM_TIMESTEPS).trunc()


def from_timestep(timestep: Tensor) -> Tensor:
    """Whole thousandths -> the smallest float32 at least their thousandth that `to_whole` gives back."""
    t = timestep.float() / NUM_TIMESTEPS
    return torch.where(to_timestep(t) < timestep, torch.nextafter(t, torch.ones_like(t)), t)
