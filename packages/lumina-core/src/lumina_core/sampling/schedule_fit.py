"""A grid of times fitted to a model by what is wanted of it: the least error of a solver with few evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.flow.schedules import FittedSchedule, subdivide_schedule, times_from_sharpness, uniform_times
from lumina_core.flow.solvers import (
    CountedVelocity,
    Solver,
    StatefulSolver,
    euler,
    integrate,
    midpoint,
    solver_step,
    steps_for_nfe,
)
from lumina_core.io import atomic_file
from lumina_core.model import ComponentRegistry, Model
from lumina_core.model_dir import CONFIG_FILE, read_model_config
from lumina_core.protocols import Velocity
from lumina_core.request import Request
from lumina_core.sampling.generate import make_velocity
from lumina_core.sampling.inputs import NO_INPUTS, NoiseSampler, encode_cond, encode_uncond
from lumina_core.sampling.resolve import empty_tokens, resolve_sampling

STEP_FRACTIONS = (0.4, 0.25, 0.12)
"""How far a time is moved, as a share of the way to its neighbour; once through all times for each."""
MAX_TRIALS = 3
"""Grids that are tried, at most, to move one time once."""
MIN_GAP_FRACTION = 0.05
"""Share of the gap between its neighbours that a time keeps away from either."""


def coordinate_search(
    schedule: Tensor,
    free_indices: Sequence[int],
    error: Callable[[Tensor], float],
    step_fractions: Sequence[float] = STEP_FRACTIONS,
) -> Tensor:
    """Times of a grid moved to where an error is least, one after another; it never becomes larger (our own proposal).

    A time is tried nearer to either neighbour, then where a parabola through the three errors is least. The last time
    is moved first, so that an error which keeps the ways of the grid before has only the changed end to go again.

    Args:
        times: (steps + 1,) float64, rising.
        free: which of them may move; neither the first nor the last.
        error: of a grid; no number counts as worse than any.
    """
    best, best_error = schedule, error(schedule)
    for step_fraction in step_fractions:
        for index in sorted(free_indices, reverse=True):
            best, best_error = _search_time(best, best_error, index, step_fraction, error)
    return best


def search_cost(steps: int, free_indices: Sequence[int], step_fractions: Sequence[float] = STEP_FRACTIONS) -> int:
    """Steps that are gone at most by `searched`, where an error keeps the ways of the grid before."""
    suffix_steps = sum(steps - place + 1 for place in free_indices)
    # each time through begins with ways that are no longer kept
    return steps + len(step_fractions) * (steps + MAX_TRIALS * suffix_steps)


def _search_time(
    best: Tensor, best_error: float, index: int, step_fraction: float, error: Callable[[Tensor], float]
) -> tuple[Tensor, float]:
    previous, current, following = best[index - 1 : index + 2].tolist()
    candidates = [
        current - step_fraction * (current - previous),
        current,
        current + step_fraction * (following - current),
    ]
    errors = [
        error(_replace_time(best, index, candidates[0])),
        best_error,
        error(_replace_time(best, index, candidates[2])),
    ]
    vertex = _parabola_vertex(candidates, errors)
    if vertex is not None:
        margin = MIN_GAP_FRACTION * (following - previous)
        candidates.append(min(max(vertex, previous + margin), following - margin))
        errors.append(error(_replace_time(best, index, candidates[3])))
    min_error, where = min((error, where) for error, where in zip(errors, candidates, strict=True) if error == error)
    return (best, best_error) if min_error >= best_error else (_replace_time(best, index, where), min_error)


def _replace_time(schedule: Tensor, index: int, t: float) -> Tensor:
    result = schedule.clone()
    result[index] = t
    return result


def _parabola_vertex(points: Sequence[float], errors: Sequence[float]) -> float | None:
    """Where the parabola through three points is least; None where it has no lowest place."""
    (a, b, c), (left, middle, right) = points, errors
    left_slope, right_slope = (middle - left) / (b - a), (right - middle) / (c - b)
    curvature = (right_slope - left_slope) / (c - a)
    return (a + b - left_slope / curvature) / 2 if curvature > 0 and curvature < float("inf") else None


FINE_STEPS = 64
"""Steps of the ways that are measured."""


class _SharpnessRecorder:
    """A velocity that remembers how far it has turned from one time to the next."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.changes: list[Tensor] = []
        self.previous: Tensor | None = None
        set_time = getattr(velocity, "set_time", None)
        if set_time is not None:
            self.set_time = set_time

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        current = self.velocity(x, t)
        if self.previous is not None:
            self.changes.append((current - self.previous).square().mean().sqrt())
        self.previous = current
        return current


@torch.inference_mode()
def fit_schedule(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], fine_steps: int = FINE_STEPS
) -> tuple[float, ...]:
    """Times at equal shares of the steps, measured along `fine` Euler steps of these requests, with their guidance.

    Returns:
        From 0 to 1, rising (SharpEuler, arXiv 2605.11547).

    Raises:
        ConfigError: the model cannot do the requests, or answers with no numbers.
    """
    return schedule_from_sharpness(*velocity_and_noise(model, registry, requests), fine_steps)


def velocity_and_noise(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request]
) -> tuple[Velocity, Tensor]:
    """The velocity of requests in one batch, all of one size and guidance, and the noises (B, N, D) they begin from."""
    overrides = {"solver": "core.euler", "schedule": "uniform", "block_cache": "none", "nfe": None, "steps": None}
    plain_requests = [request.model_copy(update=overrides) for request in requests]
    plan, size = resolve_sampling(model, registry, plain_requests[0]), model.generation_task.size(plain_requests[0])
    cond = encode_cond(model, plain_requests, NO_INPUTS)
    uncond = None if plan.guidance.scale == 1 else encode_uncond(model, plain_requests, NO_INPUTS)
    seeds = [request.seed + k for request in plain_requests for k in range(request.count)]
    tokens = empty_tokens(model, size, len(seeds))
    return make_velocity(model, plan, tokens, cond, uncond), NoiseSampler(tokens, seeds, model.device)()


def schedule_from_sharpness(velocity: Velocity, noise: Tensor, fine_steps: int = FINE_STEPS) -> tuple[float, ...]:
    """Times at equal shares of the steps, by how far a velocity turns along `fine` Euler steps from noise (B, ...)."""
    recorder = _SharpnessRecorder(velocity)
    integrate(recorder, noise, uniform_times(fine_steps), euler)
    # the last interval has no velocity at its end: it is taken to turn as much as the one before
    changes = torch.stack([*recorder.changes, recorder.changes[-1]]).tolist()
    return times_from_sharpness([value * fine_steps for value in changes])


def save_schedule(folder: Path, values: tuple[float, ...]) -> None:
    """Write a fitted grid into the config.json of a model folder, whole or not at all.

    Raises:
        CheckpointError: the folder is no model folder of ours, or cannot be written to.
    """
    read_model_config(folder)
    path = folder / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["recipe"].setdefault("sampling", {})["fitted_schedule"] = list(values)
    try:
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


REFERENCE_STEPS = 40
"""Midpoint steps, where the velocity is sharp, of the ways that are held for right."""
BATCH_SIZE = 16
"""Ways that are gone together."""
POINTS_PER_STEP = 6
"""Times that are kept for each step of the finer of the two grids that are searched."""
REFINE_RANGE = (0.4, 0.15)
"""How far the times between are moved, once the others are found."""

ProgressCallback = Callable[[int], None]
"""Told of evaluations of a batch as they are made."""


@dataclass(frozen=True)
class ScheduleFit:
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
    num_trajectories: tuple[int, int]
    errors: dict[int, tuple[float, float]]


@torch.inference_mode()
def fit_schedule_by_error(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], nfe: int = 10, reference_steps: int = REFERENCE_STEPS,
    on_progress: ProgressCallback = lambda more: None,
) -> ScheduleFit:  # fmt: skip
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
    solver, name = _resolve_solver(model, registry, requests)
    steps = _steps_for_nfe(solver, name, nfe)
    halves = [_make_batches(model, registry, requests[offset::2], on_progress) for offset in (0, 1)]
    sharpness_times = torch.tensor(schedule_from_sharpness(*halves[0][0]), dtype=torch.float64)
    fit_error, held_out_error = (
        TrajectoryError(batches, solver, _resample(sharpness_times, reference_steps)) for batches in halves
    )
    model_times = model.recipe.sampling.fitted_schedule
    starts = [
        uniform_times(steps),
        _resample(sharpness_times, steps),
        *([_resample(model_times, steps)] if model_times else []),
    ]
    coarse = coordinate_search(min(starts, key=fit_error), range(1, steps), fit_error)
    refined = coordinate_search(subdivide_schedule(coarse, 2), range(1, 2 * steps, 2), fit_error, REFINE_RANGE)
    values = tuple(round(value, 6) for value in subdivide_schedule(refined, POINTS_PER_STEP).tolist())
    errors = {k: (held_out_error(_resample(values, k)), held_out_error(uniform_times(k))) for k in (steps, 2 * steps)}
    return ScheduleFit(values, name, steps, (fit_error.num_trajectories, held_out_error.num_trajectories), errors)


def estimated_nfe(
    model: Model,
    registry: ComponentRegistry,
    requests: Sequence[Request],
    nfe: int = 10,
    reference_steps: int = REFERENCE_STEPS,
) -> int:
    """Evaluations of a batch of 16 that `fit_by_error` asks for at most; with guidance each is of both halves.

    Raises:
        ConfigError: as `fit_by_error`, as far as it can be said without asking the model.
    """
    solver, name = _resolve_solver(model, registry, requests)
    steps = _steps_for_nfe(solver, name, nfe)
    batches = [-(-len(requests[offset::2]) // BATCH_SIZE) for offset in (0, 1)]
    nfe_per_step, starts = -(-nfe // steps), 3
    search_steps = (
        starts * steps
        + search_cost(steps, range(1, steps))
        + search_cost(2 * steps, range(1, 2 * steps, 2), REFINE_RANGE)
    )
    return (
        FINE_STEPS
        + batches[0] * (2 * reference_steps + nfe_per_step * search_steps)
        + batches[1] * (2 * reference_steps + nfe_per_step * 6 * steps)
    )


class TrajectoryError:
    """The error of grids: how far the ways of some batches end from where fine steps lead.

    Ways are kept: a grid that begins as the one before goes on from where they part.

    Args:
        batches: velocities, and the noises (B, N, D) that they begin from.
        fine: times of the midpoint steps whose ends are held for right.

    Raises:
        ConfigError: the ends are no numbers.
    """

    def __init__(self, batches: Sequence[tuple[Velocity, Tensor]], solver: Solver, reference_schedule: Tensor) -> None:
        self._trajectories = [_TrajectoryCache(velocity, noise, solver) for velocity, noise in batches]
        self._references = [
            integrate(velocity, noise, reference_schedule, midpoint).values for velocity, noise in batches
        ]
        if not all(bool(end.isfinite().all()) for end in self._references):
            raise ConfigError("the model's answers are no numbers, so no grid can be fitted to them")
        self.num_trajectories = sum(len(end) for end in self._references)

    def __call__(self, schedule: Tensor) -> float:
        """Root mean square over all numbers of all ways; of a grid (steps + 1,), float64 on the CPU."""
        ends = [trajectory(schedule) for trajectory in self._trajectories]
        squares = [
            float((result - reference).double().square().sum())
            for result, reference in zip(ends, self._references, strict=True)
        ]
        return float((sum(squares) / sum(reference.numel() for reference in self._references)) ** 0.5)


class _TrajectoryCache:
    """The ways of one batch, with all that they passed through on the last grid."""

    def __init__(self, velocity: Velocity, noise: Tensor, solver: Solver) -> None:
        self.velocity, self.solver = CountedVelocity(velocity), solver
        solver_state = cast(StatefulSolver, solver).init(None) if hasattr(solver, "init") else None
        self.states: list[tuple[float, Tensor, Any]] = [(0.0, noise, solver_state)]

    def __call__(self, schedule: Tensor) -> Tensor:
        pairs = zip(self.states, schedule.tolist(), strict=False)
        reusable = next(
            (k for k, ((cached_time, *_), time) in enumerate(pairs) if cached_time != time), len(self.states)
        )
        del self.states[reusable:]
        for t, u in pairwise(schedule[reusable - 1 :].unbind()):
            _, x, solver_state = self.states[-1]
            self.states.append((float(u), *solver_step(self.solver, self.velocity, x, t, u, solver_state)))
        return self.states[-1][1]


def _make_batches(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], on_progress: ProgressCallback
) -> list[tuple[Velocity, Tensor]]:
    pairs = [
        velocity_and_noise(model, registry, requests[first : first + BATCH_SIZE])
        for first in range(0, len(requests), BATCH_SIZE)
    ]
    return [(_ProgressVelocity(velocity, on_progress), noise) for velocity, noise in pairs]


class _ProgressVelocity:
    """A velocity whose evaluations are told of."""

    def __init__(self, velocity: Velocity, on_progress: ProgressCallback) -> None:
        self.velocity, self.on_progress = velocity, on_progress
        set_time = getattr(velocity, "set_time", None)
        if set_time is not None:
            self.set_time = set_time

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.on_progress(1)
        return self.velocity(x, t)


def _resolve_solver(model: Model, registry: ComponentRegistry, requests: Sequence[Request]) -> tuple[Solver, str]:
    if len(requests) < 2:
        raise ConfigError(
            f"a grid is fitted to some requests and tried on others; give two or more, got {len(requests)}"
        )
    plan = resolve_sampling(model, registry, requests[0].model_copy(update={"schedule": "uniform"}))
    if hasattr(plan.solver, "solve"):
        raise ConfigError(f"{plan.settings.solver} chooses its own steps; fit a grid for a solver that is given them")
    if hasattr(plan.solver, "add_noise"):
        raise ConfigError(
            f"{plan.settings.solver} draws noise, so its ways have no one end; fit a grid for another solver"
        )
    return plan.solver, plan.settings.solver


def _steps_for_nfe(solver: Solver, name: str, nfe: int) -> int:
    steps = steps_for_nfe(solver, nfe, name)
    if steps < 2:
        raise ConfigError(f"{nfe} evaluations are one step of {name}, where nothing can be fitted; allow more")
    return steps


def _resample(schedule: Sequence[float] | Tensor, steps: int) -> Tensor:
    times = schedule.tolist() if isinstance(schedule, Tensor) else schedule
    return FittedSchedule(FittedSchedule.Config(values=tuple(times)))(steps)
