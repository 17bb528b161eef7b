"""Following a velocity: single steps as plain functions, and the one loop that carries them along a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.parts import Solver, Velocity


class CarryingSolver(Protocol):
    """Steps that carry something from one to the next: earlier velocities, or where noise is drawn."""

    def init(self, draw: Callable[[], Tensor] | None) -> Any:
        """What the first step is handed.

        Args:
            draw: gives standard normal noise of x's shape, each item's from its own generator; None: there is none.
        """
        ...

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, carried: Any) -> tuple[Tensor, Any]:
        """x at time u, and what the next step is handed."""
        ...


class FreeSolver(Protocol):
    """Chooses its own steps from one time to another."""

    def solve(
        self, velocity: Velocity, x: Tensor, start: Tensor, stop: Tensor, seen: Callable[[float, Tensor], bool]
    ) -> Tensor:
        """x at the time `stop`.

        Args:
            start, stop: float64 on the CPU; from data to noise `stop` is the smaller one.
            seen: told (time, x there) after every step; True: stop there.
        """
        ...


AnySolver = Solver | CarryingSolver | FreeSolver


def euler(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """First order, one evaluation."""
    return x + (u - t) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the slope half-way."""
    step = u - t
    half = x + step / 2 * velocity(x, t)
    return x + step * velocity(half, t + step / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the mean of the slopes at both ends (torchdiffeq calls it heun2)."""
    step = u - t
    first = velocity(x, t)
    return x + step / 2 * (first + velocity(x + step * first, u))


def heun3(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Third order, three evaluations: Heun's method of that order."""
    step = u - t
    first = velocity(x, t)
    second = velocity(x + step / 3 * first, t + step / 3)
    third = velocity(x + step * 2 / 3 * second, t + step * 2 / 3)
    return x + step / 4 * (first + 3 * third)


def rk4(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Fourth order, four evaluations: the classical Runge-Kutta method."""
    step = u - t
    middle = t + step / 2
    a = velocity(x, t)
    b = velocity(x + step / 2 * a, middle)
    c = velocity(x + step / 2 * b, middle)
    d = velocity(x + step * c, u)
    return x + step / 6 * (a + 2 * (b + c) + d)


def rk4_three_eighths(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Fourth order, four evaluations: Kutta's 3/8 rule, which torchdiffeq calls rk4."""
    step = u - t
    a = velocity(x, t)
    b = velocity(x + step / 3 * a, t + step / 3)
    c = velocity(x + step * (b - a / 3), t + step * 2 / 3)
    d = velocity(x + step * (a - b + c), u)
    return x + step / 8 * (a + 3 * (b + c) + d)


@dataclass(frozen=True)
class Solution:
    """Where the way ended, and how often the velocity was asked."""

    values: Tensor
    evaluations: int
    steps: int


class Counted:
    """A velocity as solvers ask it, with times on the CPU: they become what the network takes, and are counted.

    Args:
        limit: evaluations that may be asked for; None: any number.
    """

    def __init__(self, velocity: Velocity, limit: int | None = None) -> None:
        self.velocity, self.evaluations, self.limit = velocity, 0, limit
        self.at: Callable[[float], None] | None = getattr(velocity, "at", None)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """The velocity at x (B, ...) and a time on the CPU.

        Raises:
            ConfigError: the limit is passed.
        """
        if self.evaluations == self.limit:
            raise ConfigError(
                f"{self.limit} evaluations were allowed, and this solver needs more for its tolerances; allow more, "
                "loosen them, or take a solver of fixed steps"
            )
        self.evaluations += 1
        # halves would round 0.999 to 1
        dtype = x.dtype if x.dtype.itemsize > 2 else torch.float32
        told = float(time.to(dtype))
        if self.at is not None:
            self.at(told)
        # filled where x is: nothing is carried there, nobody waits
        return self.velocity(x, x.new_full((x.shape[0],), told, dtype=dtype))


OnStep = Callable[[int, float, Tensor], "bool | Tensor | None"]
"""(steps done, time reached, values) -> True to stop there, or other values to go on with."""


def integrate(
    velocity: Velocity, x: Tensor, grid: Tensor, solver: AnySolver, on_step: OnStep | None = None,
    draw: Callable[[], Tensor] | None = None, limit: int | None = None,
) -> Solution:  # fmt: skip
    """Carry x (B, ...) along the grid, one step after another; a falling grid goes from data to noise.

    Args:
        velocity: (x (B, ...), time (B,)) -> (B, ...); time comes on x's device, in its dtype or float32 at least.
        grid: (steps + 1,) float64 on the CPU.
        on_step: called after every step; may stop the way or replace the values (not those of a free solver).
        draw: gives standard normal noise of x's shape, for solvers that need it.
        limit: evaluations that may be asked for.

    Raises:
        ConfigError: the grid has fewer than two times, or the limit is passed.
    """
    if grid.ndim != 1 or len(grid) < 2:
        raise ConfigError(f"a grid needs at least two times, got {grid.tolist()}")
    # times stay on the CPU in float64: no sync with a device, no rounding before the network's own
    counted, times = Counted(velocity, limit), grid.unbind()
    if hasattr(solver, "solve"):
        return _freely(cast(FreeSolver, solver), counted, x, (times[0], times[-1]), on_step)
    carried, done = cast(CarryingSolver, solver).init(draw) if hasattr(solver, "init") else None, 0
    for done, (t, u) in enumerate(pairwise(times), start=1):
        x, carried = one_step(solver, counted, x, t, u, carried)
        told = None if on_step is None else on_step(done, float(u), x)
        if isinstance(told, Tensor):
            x = told
        elif told:
            break
    return Solution(x, counted.evaluations, done)


def one_step(
    solver: AnySolver, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, carried: Any
) -> tuple[Tensor, Any]:
    """A step of a solver that remembers or of a plain one."""
    if hasattr(solver, "step"):
        return cast(CarryingSolver, solver).step(velocity, x, t, u, carried)
    return cast(Solver, solver)(velocity, x, t, u), None


def _freely(
    solver: FreeSolver, velocity: Counted, x: Tensor, ends: tuple[Tensor, Tensor], on_step: OnStep | None
) -> Solution:
    done = 0

    def seen(time: float, values: Tensor) -> bool:
        nonlocal done
        done += 1
        return on_step is not None and on_step(done, time, values) is True

    values = solver.solve(velocity, x, *ends, seen)
    return Solution(values, velocity.evaluations, done)


def fitting_steps(solver: AnySolver, evaluations: int, name: str = "this solver") -> int:
    """The most steps that ask no more than `evaluations` times; found by trying on a single number.

    Raises:
        ConfigError: not even one step fits.
    """
    first, second = (_asked(solver, steps) for steps in (1, 2))
    if evaluations < first:
        raise ConfigError(
            f"{evaluations} evaluations are too few for {name}, which needs {first} for a step; allow {first} or more, "
            "or take euler, which needs 1"
        )
    return 1 + (evaluations - first) // max(1, second - first)


def _asked(solver: AnySolver, steps: int) -> int:
    one = torch.ones(1, 1, dtype=torch.float64)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return integrate(lambda x, t: -x, one, grid, solver, draw=lambda: torch.zeros_like(one)).evaluations
