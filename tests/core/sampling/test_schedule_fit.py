"""Schedules fitted by error: better than equal steps for curved trajectories, on held-out noise."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.flow.schedules import uniform_times
from lumina_core.flow.solvers import AdamsBashforth, euler, midpoint
from lumina_core.sampling.schedule_fit import TrajectoryError, coordinate_search


def bending(x, time):
    """A velocity that turns quickly near noise."""
    return -8 * x * math.exp(-6 * time) + 3 * torch.cos(x)


def trial(seed, solver):
    noise = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return TrajectoryError([(bending, noise[:4]), (bending, noise[4:])], solver, uniform_times(200))


@pytest.mark.parametrize("solver", [euler, midpoint, AdamsBashforth()])
def test_a_fitted_schedule_has_less_error_on_held_out_noise(solver):
    fitted_to, held = trial(0, solver), trial(1, solver)
    found = coordinate_search(uniform_times(4), range(1, 4), fitted_to)
    assert held(found) < 0.7 * held(uniform_times(4))


@pytest.mark.parametrize("solver", [euler, midpoint, AdamsBashforth()])
def test_a_continued_trajectory_ends_at_the_values_of_a_full_one(solver):
    continued = trial(0, solver)
    for last in (0.8, 0.9, 0.7):
        times = torch.tensor([0, 0.2, 0.5, last, 1.0], dtype=torch.float64)
        assert continued(times) == trial(0, solver)(times)


def test_a_model_with_nonfinite_output_is_refused():
    with pytest.raises(ConfigError, match="velocities that are not finite"):
        TrajectoryError([(lambda x, time: x * float("nan"), torch.ones(2, 3))], euler, uniform_times(4))
