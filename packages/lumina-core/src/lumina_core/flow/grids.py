"""Grids of times that are not even: the sigmoid family of the paper, and those that are fitted to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.flow.times import checked, equal_steps

KNOTS = 65
"""Times that a fitted grid keeps."""


class SigmoidGrid:
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
        reading: Literal["fine_ends", "coarse_ends"] = Field("fine_ends", description="which way the words are read")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        even, config = equal_steps(steps), self.config
        ends = self._curve(torch.tensor([0.0, 1.0], dtype=torch.float64))
        if config.reading == "fine_ends":
            times = (self._curve(even) - ends[0]) / (ends[1] - ends[0])
        else:
            height = ends[0] + even * (ends[1] - ends[0])
            steep = torch.where(height < 0.5, config.alpha, config.beta)
            times = config.mu + height.logit() / steep
        times[0], times[-1] = 0.0, 1.0  # exactly, whatever was rounded
        return checked(times)

    def _curve(self, u: Tensor) -> Tensor:
        steep = torch.where(u < self.config.mu, self.config.alpha, self.config.beta)
        return torch.sigmoid(steep * (u - self.config.mu))


class FittedGrid:
    """Times that were fitted to a model: to its sharpness (arXiv 2605.11547), or for the least error of a solver."""

    class Config(Settings):
        """What was found."""

        values: tuple[float, ...] = Field(
            (), description="times at equal shares of the steps; the model's, where it has any"
        )

    def __init__(self, config: Config) -> None:
        if len(config.values) < 2:
            raise ConfigError("no grid was fitted to this model yet; do it once: lumina grid --fit MODEL")
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        known = checked(torch.tensor(self.config.values, dtype=torch.float64))
        at = equal_steps(steps) * (len(known) - 1)
        below = at.floor().long().clamp(max=len(known) - 2)
        times = torch.lerp(known[below], known[below + 1], at - below)
        times[0], times[-1] = 0.0, 1.0
        return checked(times)


def fitted_times(sharpness: Sequence[float], power: float = 0.5, floor: float = 0.1) -> tuple[float, ...]:
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
    measured = torch.tensor(list(sharpness), dtype=torch.float64)
    if not len(measured) or not bool(measured.isfinite().all()) or bool((measured < 0).any()):
        raise ConfigError("the measured sharpness is empty, negative or no number: the model's answers are broken")
    density = measured**power
    padded = torch.nn.functional.pad(density.view(1, 1, -1), (1, 1), mode="replicate")
    density = torch.nn.functional.avg_pool1d(padded, 3, 1).flatten()
    density = density.clamp_min(floor * float(density.mean()) or 1.0)
    reached = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()])
    edges, wanted = equal_steps(len(density)), equal_steps(KNOTS - 1)
    right = torch.searchsorted(reached, wanted).clamp(1, len(reached) - 1)
    share = (wanted - reached[right - 1]) / (reached[right] - reached[right - 1])
    times = torch.lerp(edges[right - 1], edges[right], share)
    times[0], times[-1] = 0.0, 1.0
    return tuple(round(value, 6) for value in checked(times).tolist())


def smooth_times(times: Tensor, parts: int) -> Tensor:
    """Every step of a grid cut into `parts`, along a curve through its times that rises as they do.

    The curve is of cubic pieces; its slope at a time is the harmonic mean of the steps before and after it (Fritsch and
    Butland, SIAM J. Sci. Stat. Comput. 5, 1984), at the ends what a parabola has there, within what keeps it rising.

    Args:
        times: (steps + 1,) float64, from 0 to 1.
        parts: 1 changes nothing.

    Returns:
        (steps * parts + 1,) float64; every `parts`-th is a time that was given.
    """
    step = times.diff()
    slope = torch.cat([step[:1], 2 * step[1:] * step[:-1] / (step[1:] + step[:-1]), step[-1:]])
    if len(step) > 1:
        slope[0] = ((3 * step[0] - step[1]) / 2).clamp(step[0] / 4, 3 * step[0])
        slope[-1] = ((3 * step[-1] - step[-2]) / 2).clamp(step[-1] / 4, 3 * step[-1])
    share = torch.arange(parts, dtype=torch.float64) / parts
    rise, left = share * share * (3 - 2 * share), share * (1 - share)
    pieces = (
        times[:-1, None] + step[:, None] * rise
        + left * ((1 - share) * slope[:-1, None] - share * slope[1:, None])
    )  # fmt: skip
    return checked(torch.cat([pieces.flatten(), times[-1:]]))
