"""Components of the released audio models (lumina_music): path, time sampler, schedule and backbone.

Time runs from noise at 0 to data at 1, as in Lumina (ddpm_audio.py, class CFM). Differences: the path ends with noise
of `sigma_min`, the network gets integer timesteps from 0 to 999, schedules are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.flow.schedules import uniform_times, validate_schedule
from lumina_core.models.flag_dit import FlagDiTBackbone

NUM_TIMESTEPS = 1000
"""Number of integer timesteps of the network (`timesteps` of the release)."""


class CFMPath:
    """Linear path with alpha = t and sigma = 1 - (1 - sigma_min) t (arXiv 2210.02747).

    The velocity is data - (1 - sigma_min) noise at every time.
    """

    class Config(Settings):
        """Noise at t = 1."""

        sigma_min: float = Field(1e-4, ge=0, lt=1, description="standard deviation of the noise at t = 1")

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
    """Uniform sampler of the multiples of 0.001 from 0 to 0.999, as in the published training."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        timesteps = [torch.randint(NUM_TIMESTEPS, (), generator=generator) for generator in generators]
        return from_timestep(torch.stack(timesteps))


class Float32Schedule:
    """Equal steps, rounded to float32 by `torch.linspace`.

    The rounding decides the integer timestep: with 25 steps, that of the sixth time is 199, not 200.
    """

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        uniform_times(steps)  # validates the number of steps
        return validate_schedule(torch.linspace(0, 1, steps + 1, dtype=torch.float32).double())


class DiscreteTimeFlagDiT(FlagDiTBackbone):
    """Flag-DiT of the released audio models, with integer timesteps from 0 to 999 and optionally scaled positions."""

    class Config(FlagDiTBackbone.Config):
        """Sizes, and the scale of positions."""

        rope_scaling_factor: float = Field(1.0, gt=0, description="divisor of positions")

    config: Config

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the rotary frequencies, divided by `rope_scaling_factor`."""
        return tuple(freqs / self.config.rope_scaling_factor for freqs in super().frequencies(device))

    def network_time(self, t: Tensor) -> Tensor:
        """Map time (B,) in [0, 1] to integer timesteps."""
        return to_timestep(t)


def to_timestep(t: Tensor) -> Tensor:
    """Convert times in [0, 1] to integer timesteps: the product in float32 is truncated, not rounded."""
    return (t.float() * NUM_TIMESTEPS).trunc()


def from_timestep(timestep: Tensor) -> Tensor:
    """Convert integer timesteps to the smallest float32 times that `to_timestep` maps back to them."""
    t = timestep.float() / NUM_TIMESTEPS
    return torch.where(to_timestep(t) < timestep, torch.nextafter(t, torch.ones_like(t)), t)
