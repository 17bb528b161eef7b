"""Where on the road to look: times drawn for training, and grids of times for sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.parts import Draw


class Uniform:
    """Every time alike; what the published text-to-image models were trained with (Lumina-T2X#57)."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.rand((), generator=generator) for generator in generators])


class LogitNormal:
    """The sigmoid of a normal number: more times in the middle (Stable Diffusion 3, arXiv 2403.03206)."""

    class Config(Settings):
        """Of the normal number; below 0 leans to noise, above to data."""

        mean: float = Field(0.0, description="below 0: nearer noise, above: nearer data")
        std: float = Field(1.0, gt=0, description="how widely the times are spread")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
        return torch.sigmoid(self.config.mean + self.config.std * normal)


class Shifted:
    """s t / (1 + (s - 1) t) of a uniform time: towards DATA for s > 1.

    As published for training (transport.py, `shift_s`); the shift of the sampling grid goes the other way.
    """

    class Config(Settings):
        """How far."""

        shift: float = Field(gt=0, description="1 changes nothing; more: nearer data")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        time = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return toward_data(time, self.config.shift)


class Within:
    """Another draw squeezed into an interval."""

    class Config(Settings):
        """The interval, and the draw (uniform where none is named)."""

        start: float = Field(0.0, ge=0, le=1, description="earliest time")
        stop: float = Field(1.0, ge=0, le=1, description="latest time")
        times: Use = Field(Use(use="core.uniform"), description="the draw that is squeezed")

    def __init__(self, config: Config, times: Draw) -> None:
        if config.start >= config.stop:
            raise ConfigError(f"core.within: start {config.start} must lie before stop {config.stop}")
        self.config, self.times = config, times

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.config.start + (self.config.stop - self.config.start) * self.times(generators)


class UniformGrid:
    """Equal steps."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return checked(equal_steps(steps))


class ShiftGrid:
    """The rational grid t / (t + s - s t): finer near noise for s > 1, equal for s = 1 (`time_shifting_factor`)."""

    class Config(Settings):
        """How far; the published scripts take 4."""

        shift: float = Field(4.0, gt=0, description="1: equal steps; more: finer near noise")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return checked(toward_noise(equal_steps(steps), self.config.shift))


class GivenGrid:
    """Exactly these times; the number of steps asked for must be theirs."""

    class Config(Settings):
        """Rising, the first 0, the last 1."""

        values: tuple[float, ...] = Field(min_length=2, description="the times; one more than steps")

    def __init__(self, config: Config) -> None:
        self.config, self.steps = config, len(config.values) - 1

    def __call__(self, steps: int) -> Tensor:
        if steps != len(self.config.values) - 1:
            raise ConfigError(f"the given grid has {len(self.config.values) - 1} steps; {steps} were asked for")
        return checked(torch.tensor(self.config.values, dtype=torch.float64))


def equal_steps(steps: int) -> Tensor:
    """(steps + 1,) float64 from exactly 0 to exactly 1.

    Raises:
        ConfigError: fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"a grid needs at least 1 step, got {steps}")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def toward_noise(time: Tensor, shift: float) -> Tensor:
    """t / (t + s - s t): the sampling shift."""
    # in this order the end is exactly 1 for every s, and s = 1 changes no digit
    return time / (time + shift * (1 - time))


def toward_data(time: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): the training shift, the inverse of the other with the same s."""
    return shift * time / (1 + (shift - 1) * time)


def cut(grid: Tensor, strength: float) -> Tensor:
    """The last part of a grid, for a way that begins from data: strength 1 keeps all of it, 0 only its end.

    Of n steps the last n strength are gone, the first of them in part: it begins where that share of it is left. The
    published code begins at a time of the grid, number int((n + 1) (1 - strength)), so that near strengths are one.

    Raises:
        ConfigError: the strength is outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"a strength lies in 0..1 (0: nothing changes, 1: nothing is kept); got {strength:g}")
    place = (len(grid) - 1) * (1 - strength)
    below = round(place) if abs(place - round(place)) < 1e-6 else int(place)
    if below == len(grid) - 1:
        return grid[-1:]
    start = torch.lerp(grid[below], grid[below + 1], max(0.0, place - below))
    return torch.cat([start[None], grid[below + 1 :]])


def checked(grid: Tensor) -> Tensor:
    """The grid itself, once it starts at 0, ends at 1 and rises.

    Raises:
        ConfigError: it does not.
    """
    if float(grid[0]) != 0 or float(grid[-1]) != 1 or not bool((grid.diff() > 0).all()):
        raise ConfigError(f"a grid must start at 0, end at 1 and rise at every step; got {grid.tolist()}")
    return grid
