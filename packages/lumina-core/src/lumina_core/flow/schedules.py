"""Where on the road to look: times drawn for training, and grids of times for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import TimeSampler


class UniformTimeSampler:
    """Every time alike; what the published text-to-image models were trained with (Lumina-T2X#57)."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.rand((), generator=generator) for generator in generators])


class LogitNormalTimeSampler:
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


class ShiftedUniformTimeSampler:
    """s t / (1 + (s - 1) t) of a uniform time: towards DATA for s > 1.

    As published for training (transport.py, `shift_s`); the shift of the sampling grid goes the other way.
    """

    class Config(Settings):
        """How far."""

        shift: float = Field(gt=0, description="1 changes nothing; more: nearer data")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        t = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return inverse_shift(t, self.config.shift)


class ClampedTimeSampler:
    """Another draw squeezed into an interval."""

    class Config(Settings):
        """The interval, and the draw (uniform where none is named)."""

        start: float = Field(0.0, ge=0, le=1, description="earliest time")
        stop: float = Field(1.0, ge=0, le=1, description="latest time")
        time_sampler: ComponentSpec = Field(ComponentSpec(type="core.uniform"), description="the draw that is squeezed")

    def __init__(self, config: Config, time_sampler: TimeSampler) -> None:
        if config.start >= config.stop:
            raise ConfigError(f"core.clamped: start {config.start} must lie before stop {config.stop}")
        self.config, self.time_sampler = config, time_sampler

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.config.start + (self.config.stop - self.config.start) * self.time_sampler(generators)


class UniformSchedule:
    """Equal steps."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return validate_schedule(uniform_times(steps))


class ShiftSchedule:
    """The rational grid t / (t + s - s t): finer near noise for s > 1, equal for s = 1 (`time_shifting_factor`)."""

    class Config(Settings):
        """How far; the published scripts take 4."""

        shift: float = Field(4.0, gt=0, description="1: equal steps; more: finer near noise")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return validate_schedule(shift_schedule(uniform_times(steps), self.config.shift))


class CustomSchedule:
    """Exactly these times; the number of steps asked for must be theirs."""

    class Config(Settings):
        """Rising, the first 0, the last 1."""

        values: tuple[float, ...] = Field(min_length=2, description="the times; one more than steps")

    def __init__(self, config: Config) -> None:
        self.config, self.steps = config, len(config.values) - 1

    def __call__(self, steps: int) -> Tensor:
        if steps != len(self.config.values) - 1:
            raise ConfigError(f"the given grid has {len(self.config.values) - 1} steps; {steps} were asked for")
        return validate_schedule(torch.tensor(self.config.values, dtype=torch.float64))


def uniform_times(steps: int) -> Tensor:
    """(steps + 1,) float64 from exactly 0 to exactly 1.

    Raises:
        ConfigError: fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"a grid needs at least 1 step, got {steps}")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def shift_schedule(t: Tensor, shift: float) -> Tensor:
    """t / (t + s - s t): the sampling shift."""
    # in this order the end is exactly 1 for every s, and s = 1 changes no digit
    return t / (t + shift * (1 - t))


def inverse_shift(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): the training shift, the inverse of the other with the same s."""
    return shift * t / (1 + (shift - 1) * t)


def truncate_schedule(schedule: Tensor, strength: float) -> Tensor:
    """The last part of a grid, for a way that begins from data: strength 1 keeps all of it, 0 only its end.

    Of n steps the last n strength are gone, the first of them in part: it begins where that share of it is left. The
    published code begins at a time of the grid, number int((n + 1) (1 - strength)), so that near strengths are one.

    Raises:
        ConfigError: the strength is outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"a strength lies in 0..1 (0: nothing changes, 1: nothing is kept); got {strength:g}")
    position = (len(schedule) - 1) * (1 - strength)
    lower = round(position) if abs(position - round(position)) < 1e-6 else int(position)
    if lower == len(schedule) - 1:
        return schedule[-1:]
    start = torch.lerp(schedule[lower], schedule[lower + 1], max(0.0, position - lower))
    return torch.cat([start[None], schedule[lower + 1 :]])


def validate_schedule(schedule: Tensor) -> Tensor:
    """The grid itself, once it starts at 0, ends at 1 and rises.

    Raises:
        ConfigError: it does not.
    """
    if float(schedule[0]) != 0 or float(schedule[-1]) != 1 or not bool((schedule.diff() > 0).all()):
        raise ConfigError(f"a grid must start at 0, end at 1 and rise at every step; got {schedule.tolist()}")
    return schedule


NUM_KNOTS = 65
"""Times that a fitted grid keeps."""


class SigmoidSchedule:
    """The piecewise sigmoid of Lumina-Next, S(u) = 1 / (1 + exp(-k (u - mu))), k = alpha before mu and beta after it.

    The numbers are the paper's, the formula is our own proposal: no code was published, and its words can be read in
    two ways. `fine_ends`: t = (S(u) - S(0)) / (S(1) - S(0)), small steps at both ends and large ones around mu, as the
    paper's analysis of errors asks for. `coarse_ends`: the inverse of that, larger steps at both ends, as readers of
    the paper have noted it.
    """

    class Config(Settings):
        """Where the two pieces meet, how steep they are, and how the paper is read."""

        mu: float = Field(0.6, gt=0, lt=1, description="where the pieces meet")
        alpha: float = Field(6.0, gt=0, le=60, description="steepness before mu: the larger, the finer near noise")
        beta: float = Field(20.0, gt=0, le=60, description="steepness after mu: the larger, the finer near data")
        variant: Literal["fine_ends", "coarse_ends"] = Field("fine_ends", description="which way the words are read")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        uniform, config = uniform_times(steps), self.config
        ends = self._curve(torch.tensor([0.0, 1.0], dtype=torch.float64))
        if config.variant == "fine_ends":
            times = (self._curve(uniform) - ends[0]) / (ends[1] - ends[0])
        else:
            height = ends[0] + uniform * (ends[1] - ends[0])
            steep = torch.where(height < 0.5, config.alpha, config.beta)
            times = config.mu + height.logit() / steep
        times[0], times[-1] = 0.0, 1.0  # exactly, whatever was rounded
        return validate_schedule(times)

    def _curve(self, u: Tensor) -> Tensor:
        steep = torch.where(u < self.config.mu, self.config.alpha, self.config.beta)
        return torch.sigmoid(steep * (u - self.config.mu))


class FittedSchedule:
    """Times that were fitted to a model: to its sharpness (arXiv 2605.11547), or for the least error of a solver."""

    class Config(Settings):
        """What was found."""

        values: tuple[float, ...] = Field(
            (), description="times at equal shares of the steps; the model's, where it has any"
        )

    def __init__(self, config: Config) -> None:
        if len(config.values) < 2:
            raise ConfigError("no grid was fitted to this model yet; do it once: lumina schedule --fit MODEL")
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        knots = validate_schedule(torch.tensor(self.config.values, dtype=torch.float64))
        position = uniform_times(steps) * (len(knots) - 1)
        lower = position.floor().long().clamp(max=len(knots) - 2)
        times = torch.lerp(knots[lower], knots[lower + 1], position - lower)
        times[0], times[-1] = 0.0, 1.0
        return validate_schedule(times)


def times_from_sharpness(sharpness: Sequence[float], power: float = 0.5, min_density: float = 0.1) -> tuple[float, ...]:
    """Times at equal shares of the steps, for steps as short as the measured sharpness asks.

    The error of an Euler step of length h is h^2 / 2 times the acceleration of the way; their sum is least where the
    density of steps follows its square root. A floor keeps steps everywhere (our own proposal), a short mean takes out
    noise.

    Args:
        sharpness: accelerations |dv/dt| in equal intervals of 0..1, 0 or more, not all 0.
        power: 1/2 for a method of first order, 1/3 for one of second.
        floor: smallest density, as a share of the mean.

    Raises:
        ConfigError: what was measured is empty, negative or no number.
    """
    values = torch.tensor(list(sharpness), dtype=torch.float64)
    if not len(values) or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ConfigError("the measured sharpness is empty, negative or no number: the model's answers are broken")
    density = values**power
    padded = torch.nn.functional.pad(density.view(1, 1, -1), (1, 1), mode="replicate")
    density = torch.nn.functional.avg_pool1d(padded, 3, 1).flatten()
    density = density.clamp_min(min_density * float(density.mean()) or 1.0)
    cumulative = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()])
    edges, targets = uniform_times(len(density)), uniform_times(NUM_KNOTS - 1)
    right = torch.searchsorted(cumulative, targets).clamp(1, len(cumulative) - 1)
    fraction = (targets - cumulative[right - 1]) / (cumulative[right] - cumulative[right - 1])
    times = torch.lerp(edges[right - 1], edges[right], fraction)
    times[0], times[-1] = 0.0, 1.0
    return tuple(round(value, 6) for value in validate_schedule(times).tolist())


def subdivide_schedule(schedule: Tensor, substeps: int) -> Tensor:
    """Every step of a grid cut into `parts`, along a curve through its times that rises as they do.

    The curve is of cubic pieces; its slope at a time is the harmonic mean of the steps before and after it (Fritsch and
    Butland, SIAM J. Sci. Stat. Comput. 5, 1984), at the ends what a parabola has there, within what keeps it rising.

    Args:
        times: (steps + 1,) float64, from 0 to 1.
        parts: 1 changes nothing.

    Returns:
        (steps * parts + 1,) float64; every `parts`-th is a time that was given.
    """
    step = schedule.diff()
    slope = torch.cat([step[:1], 2 * step[1:] * step[:-1] / (step[1:] + step[:-1]), step[-1:]])
    if len(step) > 1:
        slope[0] = ((3 * step[0] - step[1]) / 2).clamp(step[0] / 4, 3 * step[0])
        slope[-1] = ((3 * step[-1] - step[-2]) / 2).clamp(step[-1] / 4, 3 * step[-1])
    fraction = torch.arange(substeps, dtype=torch.float64) / substeps
    rise, left = fraction * fraction * (3 - 2 * fraction), fraction * (1 - fraction)
    pieces = (
        schedule[:-1, None] + step[:, None] * rise
        + left * ((1 - fraction) * slope[:-1, None] - fraction * slope[1:, None])
    )  # fmt: skip
    return validate_schedule(torch.cat([pieces.flatten(), schedule[-1:]]))


class DiffusersSchedule:
    """As many evaluations as steps: times from 0 to almost 1, and one very short step to 1 (with Euler).

    The last but one is 1 - 1/1000, the noise level of the last of 1000 trained steps. A shift (t / (t + s - s t), as in
    `core.shift_schedule`) is applied to that end first and to all times once more, as diffusers 0.42 does it.
    """

    class Config(Settings):
        """What a folder's scheduler_config.json says under the same words."""

        shift: float = Field(1.0, gt=0, description="1: equal steps; more: finer near noise")
        num_train_timesteps: int = Field(1000, ge=2, description="the last step is one part in so many")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        if steps < 1:
            raise ConfigError(f"a grid needs at least 1 step, got {steps}")
        end = shift_schedule(
            torch.tensor(1 - 1 / self.config.num_train_timesteps, dtype=torch.float64), self.config.shift
        )
        times = torch.linspace(0, float(end), steps, dtype=torch.float64)
        return validate_schedule(torch.cat([shift_schedule(times, self.config.shift), times.new_ones(1)]))
