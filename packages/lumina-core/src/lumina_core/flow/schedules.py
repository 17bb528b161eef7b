"""Times from noise (0) to data (1): schedules for sampling, time samplers for training."""

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


class UniformSchedule:
    """Equal steps."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return validate_schedule(uniform_times(steps))


class ShiftSchedule:
    """Shifted schedule t / (t + s - s t): finer near noise for s > 1 (`time_shifting_factor`)."""

    class Config(Settings):
        """Amount of the shift; 4 in the published scripts."""

        shift: float = Field(4.0, gt=0, description="1: equal steps; more: finer near noise")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        return validate_schedule(shift_schedule(uniform_times(steps), self.config.shift))


class CustomSchedule:
    """Explicit times; the number of steps follows from them."""

    class Config(Settings):
        """The times."""

        values: tuple[float, ...] = Field(min_length=2, description="rising times from 0 to 1, one more than steps")

    def __init__(self, config: Config) -> None:
        self.config, self.steps = config, len(config.values) - 1

    def __call__(self, steps: int) -> Tensor:
        if steps != self.steps:
            raise ConfigError(
                f"steps: got {steps}, expected {self.steps}, the steps of the custom schedule. Leave steps out."
            )
        return validate_schedule(torch.tensor(self.config.values, dtype=torch.float64))


def uniform_times(steps: int) -> Tensor:
    """Return (steps + 1,) equidistant times in float64, from exactly 0 to exactly 1.

    Raises:
        ConfigError: fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"steps: got {steps}, expected at least 1.")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def shift_schedule(t: Tensor, shift: float) -> Tensor:
    """Return t / (t + s - s t): the shift for sampling, finer near noise for s > 1."""
    # in this order the end is exactly 1 for every s, and s = 1 changes no digit
    return t / (t + shift * (1 - t))


def truncate_schedule(schedule: Tensor, strength: float) -> Tensor:
    """Return the last part of a schedule, for sampling that begins from data: all of it for strength 1, its end for 0.

    Of n steps the last n * strength are taken, the first of them in part. The published code begins at time number
    int((n + 1) (1 - strength)) of the schedule, so that close strengths have the same result.

    Args:
        schedule: (steps + 1,) times.
        strength: 0..1; 0 leaves the data unchanged, 1 replaces it.

    Raises:
        ConfigError: the strength is outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength: got {strength:g}, expected 0..1 (0: no change, 1: from noise alone).")
    position = (len(schedule) - 1) * (1 - strength)
    lower = round(position) if abs(position - round(position)) < 1e-6 else int(position)
    if lower == len(schedule) - 1:
        return schedule[-1:]
    start = torch.lerp(schedule[lower], schedule[lower + 1], max(0.0, position - lower))
    return torch.cat([start[None], schedule[lower + 1 :]])


def validate_schedule(schedule: Tensor) -> Tensor:
    """Return the schedule, checked.

    Raises:
        ConfigError: it does not rise from 0 to 1.
    """
    if float(schedule[0]) != 0 or float(schedule[-1]) != 1 or not bool((schedule.diff() > 0).all()):
        times = schedule.tolist() if len(schedule) < 10 else [*schedule[:3].tolist(), "...", *schedule[-3:].tolist()]
        raise ConfigError(f"schedule: got {times}, expected times that rise from 0 to 1.")
    return schedule


NUM_KNOTS = 65
"""Number of times of a fitted schedule."""


class SigmoidSchedule:
    """Piecewise sigmoid of Lumina-Next, S(u) = 1 / (1 + exp(-k (u - mu))), k = alpha before mu and beta after it.

    The numbers are the paper's, the formula is our own proposal: no code was published, and the text has two readings.
    `fine_ends`: t = (S(u) - S(0)) / (S(1) - S(0)), small steps at both ends and large ones around mu, in agreement with
    the paper's analysis of errors. `coarse_ends`: the inverse function, larger steps at both ends.
    """

    class Config(Settings):
        """The two sigmoid pieces, and the reading of the paper."""

        mu: float = Field(0.6, gt=0, lt=1, description="where the two pieces meet")
        alpha: float = Field(6.0, gt=0, le=60, description="steepness before mu; more: finer near noise")
        beta: float = Field(20.0, gt=0, le=60, description="steepness after mu; more: finer near data")
        variant: Literal["fine_ends", "coarse_ends"] = Field("fine_ends", description="reading of the paper")

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
        times[0], times[-1] = 0.0, 1.0  # exact in spite of rounding
        return validate_schedule(times)

    def _curve(self, u: Tensor) -> Tensor:
        steep = torch.where(u < self.config.mu, self.config.alpha, self.config.beta)
        return torch.sigmoid(steep * (u - self.config.mu))


class FittedSchedule:
    """Times fitted to a model: to its sharpness (arXiv 2605.11547), or for the least error of a solver."""

    class Config(Settings):
        """The fitted times."""

        values: tuple[float, ...] = Field(
            (), description="times at equal shares of the steps; the model's own by default"
        )

    def __init__(self, config: Config) -> None:
        if len(config.values) < 2:
            raise ConfigError(
                "schedule: got core.fitted_schedule for a model without fitted times, expected fitted ones. "
                "Fit it once: lumina schedule fit MODEL"
            )
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        knots = validate_schedule(torch.tensor(self.config.values, dtype=torch.float64))
        position = uniform_times(steps) * (len(knots) - 1)
        lower = position.floor().long().clamp(max=len(knots) - 2)
        times = torch.lerp(knots[lower], knots[lower + 1], position - lower)
        times[0], times[-1] = 0.0, 1.0
        return validate_schedule(times)


def times_from_sharpness(sharpness: Sequence[float], power: float = 0.5, min_density: float = 0.1) -> tuple[float, ...]:
    """Return times at equal shares of the steps, from measured accelerations of trajectories.

    The error of an Euler step of length h is h^2 / 2 times the acceleration; the sum of the errors is least if the
    density of steps is proportional to the square root of the acceleration. A minimum keeps steps everywhere (our own
    proposal), a short mean reduces noise.

    Args:
        sharpness: accelerations |dv/dt| in equal intervals of 0..1, 0 or more, not all 0.
        power: 1/2 for a method of order 1, 1/3 for one of order 2.
        min_density: smallest density, as a share of the mean.

    Raises:
        ConfigError: the sharpness is empty, negative or not finite.
    """
    values = torch.tensor(list(sharpness), dtype=torch.float64)
    if not len(values) or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ConfigError(
            "sharpness: got an empty, negative or non-finite measurement, expected finite ones. Check the weights."
        )
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
    """Divide every step of a schedule, along a monotone cubic curve through its times.

    The slope at a time is the harmonic mean of the steps before and after it (Fritsch and Butland, SIAM J. Sci. Stat.
    Comput. 5, 1984), at the ends that of a parabola, limited so that the curve rises.

    Args:
        schedule: (steps + 1,) float64, from 0 to 1.
        substeps: parts of each step; 1 changes nothing.

    Returns:
        (steps * substeps + 1,) float64; every `substeps`-th is a time of `schedule`.
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
    """Schedule of diffusers' FlowMatchEulerDiscreteScheduler: times from 0 to almost 1, and one very short step to 1.

    The last time but one is 1 - 1/1000, the noise level of the last of 1000 trained steps. The shift (see
    `core.shift_schedule`) is applied to that time first and to all times once more, as in diffusers 0.42.
    """

    class Config(Settings):
        """Keys of scheduler_config.json."""

        shift: float = Field(1.0, gt=0, description="1: equal steps; more: finer near noise")
        num_train_timesteps: int = Field(1000, ge=2, description="inverse of the last step")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        if steps < 1:
            raise ConfigError(f"steps: got {steps}, expected at least 1.")
        end = shift_schedule(
            torch.tensor(1 - 1 / self.config.num_train_timesteps, dtype=torch.float64), self.config.shift
        )
        times = torch.linspace(0, float(end), steps, dtype=torch.float64)
        return validate_schedule(torch.cat([shift_schedule(times, self.config.shift), times.new_ones(1)]))


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
