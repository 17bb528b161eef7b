"""Solvers: their order, their number of evaluations, and the integration loop."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.flow.solvers import (
    AdamsBashforth,
    StopIntegrationError,
    euler,
    heun,
    integrate,
    midpoint,
    rk4,
    rk4_three_eighths,
)

SOLVERS = {euler: (1, 1), midpoint: (2, 2), heun: (2, 2), rk4: (4, 4), rk4_three_eighths: (4, 4)}
"""Order and evaluations per step."""


def spiral(x, t):
    """dx/dt of a rotation whose speed grows with time; the solution has a closed form."""
    turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    return (1 + t) * 2 * turned - 0.5 * x


def end_of_spiral(x):
    angle = 3.0  # the integral of 2 (1 + t)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=x.dtype)
    return math.exp(-0.5) * x @ turn


def error_on_spiral(step, steps):
    x = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return float((integrate(spiral, x, grid, step).values - end_of_spiral(x)).norm())


@pytest.mark.parametrize(("step", "order"), [(step, order) for step, (order, _) in SOLVERS.items()])
def test_halving_the_step_divides_the_error_by_two_to_the_order(step, order):
    coarse, fine = (error_on_spiral(step, steps) for steps in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("step", "a_step"), [(step, evaluated) for step, (_, evaluated) in SOLVERS.items()])
def test_every_evaluation_is_counted(step, a_step):
    evaluated = []

    def velocity(x, t):
        evaluated.append(t)
        return spiral(x, t)

    found = integrate(velocity, torch.ones(1, 2), torch.linspace(0, 1, 6, dtype=torch.float64), step)
    assert found.nfe == len(evaluated) == 5 * a_step
    assert found.steps == 5
    assert min(evaluated) >= 0
    assert max(evaluated) <= 1


@pytest.mark.parametrize("step", SOLVERS)
def test_a_constant_velocity_is_followed_exactly(step):
    x = torch.zeros(2, 3, dtype=torch.float64)
    found = integrate(lambda x, t: torch.full_like(x, 2.0), x, torch.tensor([0, 0.1, 1], dtype=torch.float64), step)
    assert found.values.numpy() == pytest.approx(2.0, abs=1e-15)


def test_on_step_is_called_after_every_step_and_can_stop():
    calls = []

    def watch(done, time, x):
        calls.append((done, time, x.shape))
        if done == 2:
            raise StopIntegrationError

    found = integrate(lambda x, t: x, torch.ones(3, 2), torch.linspace(0, 1, 5, dtype=torch.float64), midpoint, watch)
    assert calls == [(1, 0.25, (3, 2)), (2, 0.5, (3, 2))]
    assert (found.steps, found.nfe) == (2, 4)


def test_on_step_can_replace_x_and_another_return_value_is_refused():
    grid = torch.linspace(0, 1, 3, dtype=torch.float64)
    found = integrate(lambda x, t: x, torch.ones(1, 1), grid, euler, lambda done, time, x: torch.zeros_like(x))
    assert float(found.values) == 0
    with pytest.raises(ConfigError, match="on_step: got the return value True"):
        integrate(lambda x, t: x, torch.ones(1, 1), grid, euler, lambda done, time, x: True)


def test_time_is_a_float_rounded_to_the_precision_of_the_network():
    times = []

    def velocity(x, t):
        times.append(t)
        return x

    found = integrate(velocity, torch.ones(3, 2), [0, 0.1, 1], euler)
    integrate(velocity, torch.ones(3, 2, dtype=torch.float64), [0, 0.1, 1], euler)
    assert found.values.dtype == torch.float32 and all(type(time) is float for time in times)
    assert times == [0.0, float(torch.tensor(0.1)), 0.0, 0.1]


@pytest.mark.parametrize("solver", [3, "euler", None, AdamsBashforth])
def test_an_object_without_a_solver_interface_is_refused(solver):
    with pytest.raises(ConfigError, match=r"solver: got .*, expected a name, a function \(velocity, x, t, u\) -> x"):
        integrate(spiral, torch.ones(1, 2), [0, 1], solver)


@pytest.mark.parametrize("grid", [torch.zeros(1), torch.zeros(0), torch.zeros(2, 2)])
def test_a_grid_of_fewer_than_two_times_is_refused(grid):
    with pytest.raises(ConfigError, match="at least two times"):
        integrate(spiral, torch.ones(1, 2), grid, euler)
