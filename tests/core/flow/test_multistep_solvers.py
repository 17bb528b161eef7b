"""Multistep solvers: their order, and one evaluation per step."""

from __future__ import annotations

import math

import pytest
import torch
from core.flow.test_solvers import error_on_spiral

from lumina_core.errors import ConfigError
from lumina_core.flow.solvers import AdamsBashforth, DPMSolverPP, euler, heun3, integrate, midpoint, rk4, steps_for_nfe


def test_adams_has_order_two_with_one_evaluation_per_step():
    coarse, fine = (error_on_spiral(AdamsBashforth(), steps) for steps in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.15)
    found = integrate(lambda x, t: -x, torch.ones(1, 2), torch.linspace(0, 1, 6, dtype=torch.float64), AdamsBashforth())
    assert (found.nfe, found.steps) == (5, 5)


def test_adams_is_exact_on_a_velocity_linear_in_time_for_uneven_steps():
    grid = torch.tensor([0.0, 0.2, 0.25, 0.7, 1.0], dtype=torch.float64)
    found = integrate(lambda x, t: t * torch.ones_like(x), torch.zeros(1, 1).double(), grid, AdamsBashforth())
    # only the first step, which is Euler's, misses: by half of its length squared
    assert float(found.values) == pytest.approx(0.5 - 0.2**2 / 2)


def gaussian(x, t):
    """The exact velocity from standard noise to data of deviation 0.5 around 2, item by item."""
    mean, variance = 2 * t, (0.5 * t) ** 2 + (1 - t) ** 2
    return 2 + (0.25 * t - (1 - t)) / variance * (x - mean)


def error_on_gaussian(solver, steps):
    x = torch.tensor([[1.5], [-0.3]], dtype=torch.float64)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return float((integrate(gaussian, x, grid, solver).values - (2 + 0.5 * x)).norm())


def test_dpmpp_has_order_two_on_a_gaussian_and_a_far_smaller_error_than_euler():
    coarse, fine = (error_on_gaussian(DPMSolverPP(), steps) for steps in (64, 128))
    assert math.log2(coarse / fine) > 1.5
    assert error_on_gaussian(DPMSolverPP(), 20) < error_on_gaussian(euler, 20) / 3


def test_a_solver_object_can_be_reused():
    solver = AdamsBashforth()
    assert error_on_spiral(solver, 10) == error_on_spiral(solver, 10)


@pytest.mark.parametrize(
    ("solver", "evaluations", "steps"),
    [(euler, 7, 7), (midpoint, 7, 3), (heun3, 7, 2), (rk4, 7, 1), (AdamsBashforth(), 7, 7), (DPMSolverPP(), 1, 1)],
)
def test_a_budget_of_evaluations_becomes_the_most_steps_that_fit(solver, evaluations, steps):
    assert steps_for_nfe(solver, evaluations) == steps


def test_a_budget_too_small_for_a_step_is_refused():
    with pytest.raises(ConfigError, match="nfe: got 3, expected at least 4 for one step of rk4"):
        steps_for_nfe(rk4, 3, "rk4")
