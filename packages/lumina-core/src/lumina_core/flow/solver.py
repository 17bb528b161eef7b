"""Following a velocity: single steps as plain functions, and the one loop that carries them along a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.parts import Solver, Velocity


def euler(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """First order, one evaluation."""
    return x + (u - t) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the slope half-way."""
    step = u - t
    half = x + step / 2 * velocity(x, t)
    return x + step * velocity(half, t + step / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the mean of the slopes at both ends."""
    step = u - t
    first = velocity(x, t)
    return x + step / 2 * (first + velocity(x + step * first, u))


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
    """A velocity as solvers ask it, with times on the CPU: they become what the network takes, and are counted."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity, self.evaluations = velocity, 0
        self.at: Callable[[float], None] | None = getattr(velocity, "at", None)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """The velocity at x (B, ...) and a time on the CPU."""
        self.evaluations += 1
        # halves would round 0.999 to 1
        dtype = x.dtype if x.dtype.itemsize > 2 else torch.float32
        told = float(time.to(dtype))
        if self.at is not None:
            self.at(told)
        # filled where x is: nothing is carried there, nobody waits
        return self.velocity(x, x.new_full((x.shape[0],), told, dtype=dtype))


OnStep = Callable[[int, float, Tensor], "bool | None"]
"""(steps done, time reached, values) -> True to stop there."""


def integrate(velocity: Velocity, x: Tensor, grid: Tensor, step: Solver, on_step: OnStep | None = None) -> Solution:
    """Carry x (B, ...) along the grid, one step after another.

    Args:
        velocity: (x (B, ...), time (B,)) -> (B, ...); time comes on x's device, in its dtype or float32 at least.
        grid: (steps + 1,) float64 on the CPU.
        on_step: called after every step; may stop the way.

    Raises:
        ConfigError: the grid has fewer than two times.
    """
    if grid.ndim != 1 or len(grid) < 2:
        raise ConfigError(f"a grid needs at least two times, got {grid.tolist()}")
    counted = Counted(velocity)
    # times stay on the CPU in float64: no sync with a device, no rounding before the network's own
    times, done = grid.unbind(), 0
    for done, (t, u) in enumerate(pairwise(times), start=1):
        x = step(counted, x, t, u)
        if on_step is not None and on_step(done, float(u), x):
            break
    return Solution(x, counted.evaluations, done)
