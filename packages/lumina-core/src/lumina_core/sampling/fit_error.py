"""A grid of times fitted to a model by what is wanted of it: the least error of a solver with few evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.grids import FittedGrid, smooth_times
from lumina_core.flow.searched import searched, tries
from lumina_core.flow.solver import AnySolver, CarryingSolver, Counted, fitting_steps, integrate, midpoint, one_step
from lumina_core.flow.times import equal_steps
from lumina_core.model import Finder, Model
from lumina_core.parts import Velocity
from lumina_core.request import Request
from lumina_core.sampling.fit import FINE, sharp_times, ways_of
from lumina_core.sampling.way import way_of

RIGHT = 40
"""Midpoint steps, where the velocity is sharp, of the ways that are held for right."""
BATCH = 16
"""Ways that are gone together."""
PARTS = 6
"""Times that are kept for each step of the finer of the two grids that are searched."""
FINER = (0.4, 0.15)
"""How far the times between are moved, once the others are found."""

Watch = Callable[[int], None]
"""Told of evaluations of a batch as they are made."""


@dataclass(frozen=True)
class Fit:
    """A fitted grid, and what it is worth on ways that it was not fitted to.

    Attributes:
        values: times at equal shares of the steps, from 0 to 1.
        solver: that it was fitted for.
        steps: of that solver that the budget pays for.
        ways: that it was fitted to, and that it was held against.
        errors: by steps (those of the budget and twice as many), root mean square errors of the tokens of the ways held
            out, on the fitted grid and on equal steps.
    """

    values: tuple[float, ...]
    solver: str
    steps: int
    ways: tuple[int, int]
    errors: dict[int, tuple[float, float]]


@torch.inference_mode()
def fit_by_error(
    model: Model, finder: Finder, requests: Sequence[Request], evaluations: int = 10, fine: int = RIGHT,
    watch: Watch = lambda more: None,
) -> Fit:  # fmt: skip
    """The grid on which a solver comes nearest to where fine steps lead, for a budget and for twice as many steps.

    Our own proposal. Every second request is held out. From the best of equal steps, the grid by sharpness and the one
    that the model has, each time of the budget's steps is moved to where the error of the whole way is least
    (`flow.searched`); then the times half-way between, for twice as many steps. What is kept passes through all of
    them, so any number of steps can be asked for.

    Args:
        requests: of one size, solver and guidance; at least two, more are better.
        evaluations: the budget; it must pay for two steps at least.
        fine: midpoint steps of the ways that are held for right.

    Raises:
        ConfigError: there are too few requests or evaluations, the solver takes no grid or draws noise, or the model
            cannot do the requests.
    """
    solver, name = _solver(model, finder, requests)
    steps = _steps(solver, name, evaluations)
    ways = [_batches(model, finder, requests[half::2], watch) for half in (0, 1)]
    sharp = torch.tensor(sharp_times(*ways[0][0]), dtype=torch.float64)
    trial, held = (Trial(batches, solver, _at(sharp, fine)) for batches in ways)
    own = model.recipe.sampling.fitted
    starts = [equal_steps(steps), _at(sharp, steps), *([_at(own, steps)] if own else [])]
    coarse = searched(min(starts, key=trial), range(1, steps), trial)
    finer = searched(smooth_times(coarse, 2), range(1, 2 * steps, 2), trial, FINER)
    values = tuple(round(value, 6) for value in smooth_times(finer, PARTS).tolist())
    errors = {k: (held(_at(values, k)), held(equal_steps(k))) for k in (steps, 2 * steps)}
    return Fit(values, name, steps, (trial.ways, held.ways), errors)


def planned(model: Model, finder: Finder, requests: Sequence[Request], evaluations: int = 10, fine: int = RIGHT) -> int:
    """Evaluations of a batch of 16 that `fit_by_error` asks for at most; with guidance each is of both halves.

    Raises:
        ConfigError: as `fit_by_error`, as far as it can be said without asking the model.
    """
    solver, name = _solver(model, finder, requests)
    steps = _steps(solver, name, evaluations)
    batches = [-(-len(requests[half::2]) // BATCH) for half in (0, 1)]
    once, starts = -(-evaluations // steps), 3
    search = starts * steps + tries(steps, range(1, steps)) + tries(2 * steps, range(1, 2 * steps, 2), FINER)
    return FINE + batches[0] * (2 * fine + once * search) + batches[1] * (2 * fine + once * 6 * steps)


class Trial:
    """The error of grids: how far the ways of some batches end from where fine steps lead.

    Ways are kept: a grid that begins as the one before goes on from where they part.

    Args:
        batches: velocities, and the noises (B, N, D) that they begin from.
        fine: times of the midpoint steps whose ends are held for right.

    Raises:
        ConfigError: the ends are no numbers.
    """

    def __init__(self, batches: Sequence[tuple[Velocity, Tensor]], solver: AnySolver, fine: Tensor) -> None:
        self._gone = [_Gone(velocity, noise, solver) for velocity, noise in batches]
        self._ends = [integrate(velocity, noise, fine, midpoint).values for velocity, noise in batches]
        if not all(bool(end.isfinite().all()) for end in self._ends):
            raise ConfigError("the model's answers are no numbers, so no grid can be fitted to them")
        self.ways = sum(len(end) for end in self._ends)

    def __call__(self, grid: Tensor) -> float:
        """Root mean square over all numbers of all ways; of a grid (steps + 1,), float64 on the CPU."""
        ends = [gone(grid) for gone in self._gone]
        squares = [float((found - end).double().square().sum()) for found, end in zip(ends, self._ends, strict=True)]
        return float((sum(squares) / sum(end.numel() for end in self._ends)) ** 0.5)


class _Gone:
    """The ways of one batch, with all that they passed through on the last grid."""

    def __init__(self, velocity: Velocity, noise: Tensor, solver: AnySolver) -> None:
        self.velocity, self.solver = Counted(velocity), solver
        carried = cast(CarryingSolver, solver).init(None) if hasattr(solver, "init") else None
        self.passed: list[tuple[float, Tensor, Any]] = [(0.0, noise, carried)]

    def __call__(self, grid: Tensor) -> Tensor:
        same = zip(self.passed, grid.tolist(), strict=False)
        kept = next((k for k, ((there, *_), time) in enumerate(same) if there != time), len(self.passed))
        del self.passed[kept:]
        for t, u in pairwise(grid[kept - 1 :].unbind()):
            _, x, carried = self.passed[-1]
            self.passed.append((float(u), *one_step(self.solver, self.velocity, x, t, u, carried)))
        return self.passed[-1][1]


def _batches(model: Model, finder: Finder, requests: Sequence[Request], watch: Watch) -> list[tuple[Velocity, Tensor]]:
    found = [ways_of(model, finder, requests[first : first + BATCH]) for first in range(0, len(requests), BATCH)]
    return [(_Watched(velocity, watch), noise) for velocity, noise in found]


class _Watched:
    """A velocity whose evaluations are told of."""

    def __init__(self, velocity: Velocity, watch: Watch) -> None:
        self.velocity, self.watch = velocity, watch
        at = getattr(velocity, "at", None)
        if at is not None:
            self.at = at

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        self.watch(1)
        return self.velocity(x, time)


def _solver(model: Model, finder: Finder, requests: Sequence[Request]) -> tuple[AnySolver, str]:
    if len(requests) < 2:
        raise ConfigError(
            f"a grid is fitted to some requests and tried on others; give two or more, got {len(requests)}"
        )
    way = way_of(model, finder, requests[0].model_copy(update={"grid": "uniform"}))
    if hasattr(way.solver, "solve"):
        raise ConfigError(f"{way.settings.solver} chooses its own steps; fit a grid for a solver that is given them")
    if hasattr(way.solver, "stir"):
        raise ConfigError(
            f"{way.settings.solver} draws noise, so its ways have no one end; fit a grid for another solver"
        )
    return way.solver, way.settings.solver


def _steps(solver: AnySolver, name: str, evaluations: int) -> int:
    steps = fitting_steps(solver, evaluations, name)
    if steps < 2:
        raise ConfigError(f"{evaluations} evaluations are one step of {name}, where nothing can be fitted; allow more")
    return steps


def _at(values: Sequence[float] | Tensor, steps: int) -> Tensor:
    known = values.tolist() if isinstance(values, Tensor) else values
    return FittedGrid(FittedGrid.Config(values=tuple(known)))(steps)
