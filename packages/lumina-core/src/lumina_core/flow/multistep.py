"""Solvers of second order that ask once a step, by what they remember of the step before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.parts import Velocity


class Before(NamedTuple):
    """The time of the step before, and what was known there (its velocity, or the data it pointed to)."""

    time: Tensor
    known: Tensor


class AdamsBashforth:
    """Second order, one evaluation: the velocity drawn on as a line through the last two (steps may be uneven).

    x + h ((1 + r / 2) v - r / 2 v_before) with r = h / h_before; the first step is Euler's, as there is nothing before.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def init(self, draw: Callable[[], Tensor] | None) -> Before | None:
        return None

    def step(
        self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, carried: Before | None
    ) -> tuple[Tensor, Before]:
        now, step = velocity(x, t), u - t
        if carried is None:
            return x + step * now, Before(t, now)
        half = step / (t - carried.time) / 2
        return x + step * ((1 + half) * now - half * carried.known), Before(t, now)


class DPMpp:
    """DPM-Solver++(2M) (arXiv 2211.01095) for the linear path: the data that x points to, drawn on as a line.

    The line is over lambda = log(t / (1 - t)). With D = x + (1 - t) v it is an Euler step plus (u - t) / (1 - t) of
    half the change of D, by the ratio of the steps in lambda. Steps endless in lambda (at both ends) are Euler's.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def init(self, draw: Callable[[], Tensor] | None) -> Before | None:
        return None

    def step(
        self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, carried: Before | None
    ) -> tuple[Tensor, Before]:
        now = velocity(x, t)
        data, moved = x + (1 - t) * now, x + (u - t) * now
        if carried is None or not all(0 < float(time) < 1 for time in (carried.time, t, u)):
            return moved, Before(t, data)
        before, here, there = (math.log(float(time / (1 - time))) for time in (carried.time, t, u))
        share = (u - t) / (1 - t) * (there - here) / (here - before) / 2
        return moved + share * (data - carried.known), Before(t, data)
