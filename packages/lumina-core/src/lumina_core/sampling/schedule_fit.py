"""Schedules fitted to a model: by the sharpness of its trajectories, or for the least error of a solver."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.flow.schedules import FittedSchedule, subdivide_schedule, times_from_sharpness, uniform_times
from lumina_core.flow.solvers import CountedVelocity, as_solver, euler, integrate, midpoint, steps_for_nfe
from lumina_core.io import atomic_file
from lumina_core.locate import CONFIG_FILE
from lumina_core.model import ComponentRegistry, Model
from lumina_core.model_dir import read_model_config
from lumina_core.protocols import Solver, SolverStep, Velocity
from lumina_core.request import Request
from lumina_core.sampling.inputs import NoiseSampler
from lumina_core.sampling.inversion import velocity_of_requests
from lumina_core.sampling.resolve import resolve_sampling

STEP_FRACTIONS = (0.4, 0.25, 0.12)
"""Trial moves of a time, as fractions of the distance to its neighbor; all times are visited once per fraction."""
MAX_TRIALS = 3
"""Largest number of schedules that are evaluated to move one time once."""
MIN_GAP_FRACTION = 0.05
"""Smallest distance of a time from its neighbors, as a fraction of their distance."""


def coordinate_search(
    schedule: Tensor,
    free_indices: Sequence[int],
    error: Callable[[Tensor], float],
    step_fractions: Sequence[float] = STEP_FRACTIONS,
) -> Tensor:
    """Minimize an error over the times of a schedule, one time after another; it never increases (our own proposal).

    Each time is tried nearer to either neighbor, then at the minimum of the parabola through the three errors. The last
    time is moved first, so that an error that caches trajectories recomputes their changed ends only.

    Args:
        schedule: (steps + 1,) float64, rising.
        free_indices: indices of the times that may move, without the first and the last.
        error: error of a schedule; NaN counts as the largest.
        step_fractions: trial moves.
    """
    best, best_error = schedule, error(schedule)
    for step_fraction in step_fractions:
        for index in sorted(free_indices, reverse=True):
            best, best_error = _search_time(best, best_error, index, step_fraction, error)
    return best


def search_cost(steps: int, free_indices: Sequence[int], step_fractions: Sequence[float] = STEP_FRACTIONS) -> int:
    """Return the largest number of solver steps of `coordinate_search` with an error that caches trajectories."""
    suffix_steps = sum(steps - index + 1 for index in free_indices)
    # the first trial of each pass finds no cached trajectory
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
    """Return the minimum of the parabola through three points; None if it has none."""
    (a, b, c), (left, middle, right) = points, errors
    left_slope, right_slope = (middle - left) / (b - a), (right - middle) / (c - b)
    curvature = (right_slope - left_slope) / (c - a)
    return (a + b - left_slope / curvature) / 2 if curvature > 0 and curvature < float("inf") else None


FINE_STEPS = 64
"""Euler steps of the trajectories whose sharpness is measured."""
REFERENCE_STEPS = 40
"""Midpoint steps of the reference trajectories; more steps where the velocity changes fast."""
BATCH_SIZE = 16
"""Trajectories per batch."""
POINTS_PER_STEP = 6
"""Saved times per step of the finer of the two schedules that are searched."""
REFINE_RANGE = (0.4, 0.15)
"""Trial moves of the times of the finer schedule."""

ProgressCallback = Callable[[int], None]
"""Called with the number of new evaluations of a batch."""


@torch.inference_mode()
def fit_schedule(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], fine_steps: int = FINE_STEPS
) -> tuple[float, ...]:
    """Fit a schedule to the sharpness of trajectories (SharpEuler, arXiv 2605.11547).

    Args:
        model: the model.
        registry: source of components.
        requests: requests of one size and guidance.
        fine_steps: Euler steps of the measurement.

    Returns:
        Times from 0 to 1 at equal shares of the steps.

    Raises:
        ConfigError: the model does not support the requests, or its velocity is not finite.
    """
    return schedule_from_sharpness(*velocity_and_noise(model, registry, requests), fine_steps)


def velocity_and_noise(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request]
) -> tuple[Velocity, Tensor]:
    """Return the velocity of requests of one size and guidance, and their noise (B, N, D)."""
    overrides = {"solver": "core.euler", "schedule": "uniform", "block_cache": "none", "nfe": None, "steps": None}
    plain_requests = [request.model_copy(update=overrides) for request in requests]
    _, velocity, tokens = velocity_of_requests(model, registry, plain_requests)
    seeds = [one.seed for request in plain_requests for one in request.per_result()]
    return velocity, NoiseSampler(tokens, seeds, model.device)()


def schedule_from_sharpness(velocity: Velocity, noise: Tensor, fine_steps: int = FINE_STEPS) -> tuple[float, ...]:
    """Fit a schedule to the changes of a velocity along Euler steps from noise (B, ...)."""
    changes: list[Tensor] = []
    previous: Tensor | None = None

    def record(x: Tensor, t: float) -> Tensor:
        nonlocal previous
        current = velocity(x, t)
        if previous is not None:
            changes.append((current - previous).square().mean().sqrt())
        previous = current
        return current

    integrate(record, noise, uniform_times(fine_steps), euler)
    # the last interval has no velocity at its end: the change before is used
    return times_from_sharpness([value * fine_steps for value in torch.stack([*changes, changes[-1]]).tolist()])


def save_schedule(folder: Path, values: tuple[float, ...]) -> None:
    """Write a fitted schedule into the config.json of a model folder, atomically.

    Raises:
        CheckpointError: the folder is no model folder of ours, or is not writable.
    """
    read_model_config(folder)
    path = folder / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["recipe"].setdefault("sampling", {})["fitted_schedule"] = list(values)
    try:
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot write it ({error.strerror or error})") from error


@dataclass(frozen=True)
class ScheduleFit:
    """Fitted schedule and its errors on held-out trajectories.

    Attributes:
        values: times from 0 to 1 at equal shares of the steps.
        solver: name of the solver.
        steps: steps of the solver within the budget.
        num_trajectories: number of fitted and of held-out trajectories.
        errors: by steps (those of the budget and twice as many) the root mean square errors of the held-out tokens,
            with the fitted schedule and with equal steps.
    """

    values: tuple[float, ...]
    solver: str
    steps: int
    num_trajectories: tuple[int, int]
    errors: dict[int, tuple[float, float]]


@torch.inference_mode()
def fit_schedule_by_error(
    model: Model,
    registry: ComponentRegistry,
    requests: Sequence[Request],
    nfe: int = 10,
    reference_steps: int = REFERENCE_STEPS,
    on_progress: ProgressCallback = lambda more: None,
) -> ScheduleFit:
    """Fit the schedule with the least error of a solver, for a budget and for twice as many steps (our own proposal).

    Every second request is held out. The search starts from the best of equal steps, the schedule by sharpness, and the
    model's own. It moves each time of the budget's steps, then the times half-way between. The saved times pass through
    all of them, so that any number of steps can be requested.

    Args:
        model: the model.
        registry: source of components.
        requests: at least two requests of one size, solver and guidance; more are better.
        nfe: budget of evaluations, at least two steps.
        reference_steps: midpoint steps of the reference trajectories.
        on_progress: called after every evaluation of a batch.

    Raises:
        ConfigError: there are too few requests or evaluations, the solver is adaptive or stochastic, or the model does
            not support the requests.
    """
    solver, name, steps = _check_fit(model, registry, requests, nfe)
    halves = [_make_batches(model, registry, requests[offset::2], on_progress) for offset in (0, 1)]
    sharpness_times = torch.tensor(schedule_from_sharpness(*halves[0][0]), dtype=torch.float64)
    reference_schedule = _resample(sharpness_times, reference_steps)
    fit_error, held_out_error = (TrajectoryError(batches, solver, reference_schedule) for batches in halves)
    model_times = model.recipe.sampling.fitted_schedule
    starts = [uniform_times(steps), _resample(sharpness_times, steps)]
    starts += [_resample(model_times, steps)] if model_times else []
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
    """Return the largest number of evaluations of `fit_schedule_by_error`; each covers both halves of guidance.

    Raises:
        ConfigError: as `fit_schedule_by_error`, without an evaluation of the model.
    """
    _, _, steps = _check_fit(model, registry, requests, nfe)
    batches = [-(-len(requests[offset::2]) // BATCH_SIZE) for offset in (0, 1)]
    nfe_per_step, starts = -(-nfe // steps), 3
    search_steps = starts * steps + search_cost(steps, range(1, steps))
    search_steps += search_cost(2 * steps, range(1, 2 * steps, 2), REFINE_RANGE)
    fit_nfe = batches[0] * (2 * reference_steps + nfe_per_step * search_steps)
    return FINE_STEPS + fit_nfe + batches[1] * (2 * reference_steps + nfe_per_step * 6 * steps)


class TrajectoryError:
    """Error of schedules: distance of the ends of trajectories from those of reference trajectories.

    Trajectories are cached: a schedule that begins like the previous one continues from the last common time.

    Args:
        batches: velocities and noise (B, N, D).
        solver: solver of the schedules.
        reference_schedule: times of the midpoint steps of the reference trajectories.

    Raises:
        ConfigError: a reference is not finite.
    """

    def __init__(
        self, batches: Sequence[tuple[Velocity, Tensor]], solver: Solver | SolverStep, reference_schedule: Tensor
    ) -> None:
        self._trajectories = [_TrajectoryCache(velocity, noise, as_solver(solver)) for velocity, noise in batches]
        self._references = [integrate(velocity, x, reference_schedule, midpoint).values for velocity, x in batches]
        if not all(bool(end.isfinite().all()) for end in self._references):
            raise ConfigError("model: got velocities that are not finite, expected finite ones to fit a schedule.")
        self.num_trajectories = sum(len(end) for end in self._references)

    def __call__(self, schedule: Tensor) -> float:
        """Return the root mean square error of all numbers for a schedule (steps + 1,), float64 on the CPU."""
        pairs = zip((trajectory(schedule) for trajectory in self._trajectories), self._references, strict=True)
        squares = sum(float((end - reference).double().square().sum()) for end, reference in pairs)
        return float((squares / sum(reference.numel() for reference in self._references)) ** 0.5)


class _TrajectoryCache:
    """Trajectories of one batch, with x and the solver's state at every time of the last schedule."""

    def __init__(self, velocity: Velocity, noise: Tensor, solver: Solver) -> None:
        self.velocity, self.solver = CountedVelocity(velocity), solver
        self.states: list[tuple[float, Tensor, Any]] = [(0.0, noise, solver.init(None))]

    def __call__(self, schedule: Tensor) -> Tensor:
        times = schedule.tolist()
        pairs = zip(self.states, times, strict=False)
        reusable = next((k for k, ((cached, *_), time) in enumerate(pairs) if cached != time), len(self.states))
        del self.states[reusable:]
        for t, u in pairwise(times[reusable - 1 :]):
            _, x, state = self.states[-1]
            self.states.append((u, *self.solver.step(self.velocity, x, t, u, state)))
        return self.states[-1][1]


def _make_batches(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], on_progress: ProgressCallback
) -> list[tuple[Velocity, Tensor]]:
    def with_progress(velocity: Velocity) -> Velocity:
        def call(x: Tensor, t: float) -> Tensor:
            on_progress(1)
            return velocity(x, t)

        return call

    starts = range(0, len(requests), BATCH_SIZE)
    pairs = [velocity_and_noise(model, registry, requests[start : start + BATCH_SIZE]) for start in starts]
    return [(with_progress(velocity), noise) for velocity, noise in pairs]


def _check_fit(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], nfe: int
) -> tuple[Solver, str, int]:
    """Return the solver of the requests, its name, and its steps within the budget."""
    if len(requests) < 2:
        raise ConfigError(f"requests: got {len(requests)}, expected two or more: some are fitted, others are held out.")
    plan = resolve_sampling(model, registry, requests[0].model_copy(update={"schedule": "uniform"}))
    name = plan.settings.solver
    if plan.solver.adaptive:
        raise ConfigError(f"solver: got {name}, which chooses its own steps, expected a solver of fixed steps.")
    if plan.solver.stochastic:
        raise ConfigError(f"solver: got {name}, which draws noise, expected a deterministic solver.")
    steps = steps_for_nfe(plan.solver, nfe, name)
    if steps < 2:
        raise ConfigError(f"nfe: got {nfe}, one step of {name}, expected at least two steps.")
    return plan.solver, name, steps


def _resample(schedule: Sequence[float] | Tensor, steps: int) -> Tensor:
    times = schedule.tolist() if isinstance(schedule, Tensor) else schedule
    return FittedSchedule(FittedSchedule.Config(values=tuple(times)))(steps)
