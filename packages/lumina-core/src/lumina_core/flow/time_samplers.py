"""Time samplers: times for training, one per example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import TimeSampler


class UniformTimeSampler:
    """Uniform times, as in the published text-to-image models (Lumina-T2X#57)."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.rand((), generator=generator) for generator in generators])


class LogitNormalTimeSampler:
    """Sigmoid of a normal number: more times in the middle (Stable Diffusion 3, arXiv 2403.03206)."""

    class Config(Settings):
        """Mean and standard deviation of the normal number."""

        mean: float = Field(0.0, description="below 0: nearer to noise, above: nearer to data")
        std: float = Field(1.0, gt=0, description="standard deviation")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
        return torch.sigmoid(self.config.mean + self.config.std * normal)


class ShiftedUniformTimeSampler:
    """Shifted uniform times, s t / (1 + (s - 1) t): towards data for s > 1.

    As published for training (transport.py, `shift_s`); the shift of a sampling schedule has the inverse direction.
    """

    class Config(Settings):
        """Amount of the shift."""

        shift: float = Field(gt=0, description="1: no shift; more: nearer to data")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        t = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return inverse_shift(t, self.config.shift)


class ClampedTimeSampler:
    """Another time sampler, scaled to an interval."""

    class Config(Settings):
        """The interval, and the time sampler (uniform by default)."""

        start: float = Field(0.0, ge=0, le=1, description="earliest time")
        stop: float = Field(1.0, ge=0, le=1, description="latest time")
        time_sampler: ComponentSpec = Field(ComponentSpec(type="core.uniform"), description="time sampler to scale")

    def __init__(self, config: Config, time_sampler: TimeSampler) -> None:
        if config.start >= config.stop:
            raise ConfigError(f"core.clamped: got start {config.start}, expected less than stop {config.stop}.")
        self.config, self.time_sampler = config, time_sampler

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.config.start + (self.config.stop - self.config.start) * self.time_sampler(generators)


def inverse_shift(t: Tensor, shift: float) -> Tensor:
    """Return s t / (1 + (s - 1) t): the shift for training, the inverse of `shift_schedule` with the same s."""
    return shift * t / (1 + (shift - 1) * t)
