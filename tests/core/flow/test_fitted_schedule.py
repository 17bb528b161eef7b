"""Nonuniform schedules: from 0 to 1, strictly rising, with the shape of their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_core.flow.schedules import (
    FittedSchedule,
    SigmoidSchedule,
    subdivide_schedule,
    times_from_sharpness,
    uniform_times,
)

PAPER = [0, 0.021, 0.058, 0.118, 0.211, 0.337, 0.487, 0.878, 0.982, 0.998, 1]


def sigmoid(**options):
    return SigmoidSchedule(SigmoidSchedule.Config.read(options, "test"))


def fitted(values):
    return FittedSchedule(FittedSchedule.Config(values=tuple(values)))


@given(
    st.integers(1, 100), st.floats(0.2, 0.8), st.floats(0.5, 20), st.floats(0.5, 20),
    st.sampled_from(["fine_ends", "coarse_ends"]),
)  # fmt: skip
def test_the_sigmoid_family_begins_at_zero_ends_at_one_and_rises(steps, mu, alpha, beta, variant):
    grid = sigmoid(mu=mu, alpha=alpha, beta=beta, variant=variant)(steps)
    assert (len(grid), float(grid[0]), float(grid[-1])) == (steps + 1, 0.0, 1.0)
    assert bool((grid.diff() > 0).all())


def test_the_parameters_of_the_paper_give_small_steps_at_both_ends():
    grid = sigmoid()(10)
    assert grid.tolist() == pytest.approx(PAPER, abs=6e-4)
    steps = grid.diff()
    assert float(steps[0]) < 0.05 and float(steps[-1]) < 0.05 and float(steps.max()) > 0.3


def test_the_inverse_sigmoid_has_its_large_steps_at_the_ends():
    fine, coarse = sigmoid(), sigmoid(variant="coarse_ends")
    grid = coarse(10)
    assert float(grid.diff()[0]) > 0.2 and float(grid.diff()[-1]) > 0.2
    curve = fine(1000)
    back = [float(curve[round(float(t) * 1000)]) for t in grid]
    assert back == pytest.approx(uniform_times(10).tolist(), abs=5e-3)


def test_a_slope_that_makes_steps_vanish_is_refused():
    with pytest.raises(ConfigError, match="expected times that rise from 0 to 1"):
        sigmoid(mu=0.1, beta=60.0)(400)


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=80), st.integers(1, 60))
def test_any_measurement_gives_a_valid_schedule(measured, steps):
    grid = fitted(times_from_sharpness(measured))(steps)
    assert (len(grid), float(grid[0]), float(grid[-1])) == (steps + 1, 0.0, 1.0)
    assert bool((grid.diff() > 0).all())


def test_steps_are_short_where_sharpness_is_high_and_equal_where_it_is_constant():
    sharp_end = fitted(times_from_sharpness([1.0] * 32 + [100.0] * 32))(12).diff()
    assert float(sharp_end[0]) > 5 * float(sharp_end[-1])
    assert fitted(times_from_sharpness([3.0] * 64))(8).tolist() == pytest.approx(uniform_times(8).tolist(), abs=1e-5)


def test_a_missing_fitted_schedule_is_reported_with_how_to_fit_one():
    with pytest.raises(ConfigError, match="lumina schedule fit MODEL"):
        fitted([])


@pytest.mark.parametrize("measured", [[], [1.0, -1.0], [1.0, float("nan")]])
def test_an_invalid_measurement_is_refused(measured):
    with pytest.raises(ConfigError, match="sharpness: got"):
        times_from_sharpness(measured)


def test_a_finer_fitted_schedule_contains_the_times_of_the_coarser_one():
    grid = fitted(times_from_sharpness([1.0, 5.0, 2.0, 0.1]))
    assert torch.equal(grid(32)[::2], grid(16))


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=12), st.integers(1, 8))
def test_a_subdivided_schedule_rises_through_the_original_times(steps, factor):
    times = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    times = times / times[-1]
    finer = subdivide_schedule(times, factor)
    assert finer[::factor].tolist() == times.tolist() and bool((finer.diff() > 0).all())


def test_subdivided_equal_steps_stay_equal():
    assert subdivide_schedule(uniform_times(5), 4).tolist() == pytest.approx(uniform_times(20).tolist(), abs=1e-12)
