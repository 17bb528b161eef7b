"""Schedules from noise to data, and training times by item with the documented distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_core.flow.schedules import (
    ClampedTimeSampler,
    CustomSchedule,
    LogitNormalTimeSampler,
    ShiftedUniformTimeSampler,
    ShiftSchedule,
    UniformSchedule,
    UniformTimeSampler,
    inverse_shift,
    shift_schedule,
    truncate_schedule,
    uniform_times,
)

STEPS, SHIFTS = st.integers(1, 400), st.floats(0.05, 50)


def generators(count, start=0):
    return [torch.Generator().manual_seed(start + k) for k in range(count)]


def draws():
    uniform = UniformTimeSampler(UniformTimeSampler.Config())
    return [
        uniform,
        LogitNormalTimeSampler(LogitNormalTimeSampler.Config(mean=-0.5, std=1.2)),
        ShiftedUniformTimeSampler(ShiftedUniformTimeSampler.Config(shift=3.0)),
        ClampedTimeSampler(ClampedTimeSampler.Config(start=0.2, stop=0.6), uniform),
    ]


@given(STEPS, SHIFTS)
def test_a_schedule_rises_from_noise_to_data(steps, shift):
    for grid in (UniformSchedule(UniformSchedule.Config()), ShiftSchedule(ShiftSchedule.Config(shift=shift))):
        times = grid(steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert (float(times[0]), float(times[-1])) == (0.0, 1.0)
        assert bool((times.diff() > 0).all())


@given(STEPS)
def test_a_shift_of_one_is_the_uniform_grid(steps):
    assert torch.equal(
        ShiftSchedule(ShiftSchedule.Config(shift=1.0))(steps), UniformSchedule(UniformSchedule.Config())(steps)
    )


@given(st.floats(0, 1), SHIFTS)
def test_the_training_shift_is_the_inverse_of_the_sampling_shift(time, shift):
    at = torch.tensor(time, dtype=torch.float64)
    assert float(inverse_shift(shift_schedule(at, shift), shift)) == pytest.approx(time, abs=1e-12)


def test_a_shift_above_one_takes_small_steps_near_noise():
    steps = ShiftSchedule(ShiftSchedule.Config(shift=4.0))(8).diff()
    assert bool((steps.diff() > 0).all())
    assert float(ShiftSchedule(ShiftSchedule.Config(shift=4.0))(2)[1]) == pytest.approx(0.2)  # 0.5 / (0.5 + 4 - 2)


def test_custom_times_are_used_unchanged():
    grid = CustomSchedule(CustomSchedule.Config(values=(0.0, 0.1, 0.5, 1.0)))
    assert grid(3).tolist() == [0.0, 0.1, 0.5, 1.0]
    with pytest.raises(ConfigError, match=r"steps: got 4, expected 3"):
        grid(4)


@pytest.mark.parametrize("values", [(0.1, 1.0), (0.0, 0.9), (0.0, 0.6, 0.5, 1.0), (0.0, 0.5, 0.5, 1.0)])
def test_custom_times_that_do_not_rise_from_noise_to_data_are_refused(values):
    with pytest.raises(ConfigError, match="expected times that rise from 0 to 1"):
        CustomSchedule(CustomSchedule.Config(values=values))(len(values) - 1)


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(ConfigError, match=r"steps: got .*, expected at least 1"):
        UniformSchedule(UniformSchedule.Config())(steps)


def test_an_empty_interval_is_refused():
    with pytest.raises(ConfigError, match=r"got start 0\.5, expected less than stop"):
        ClampedTimeSampler(
            ClampedTimeSampler.Config(start=0.5, stop=0.5), UniformTimeSampler(UniformTimeSampler.Config())
        )


@pytest.mark.parametrize("draw", draws(), ids=lambda draw: type(draw).__name__)
def test_the_time_of_an_item_depends_only_on_its_own_generator(draw):
    together = draw(generators(6))
    alone = torch.cat([draw(generators(1, start=k)) for k in range(6)])
    assert torch.equal(together, alone)
    assert len(set(together.tolist())) == 6


def test_sampled_times_have_the_documented_ranges_and_means():
    uniform, normal, shifted, within = (draw(generators(4000)).double() for draw in draws())
    assert all(bool(((times >= 0) & (times <= 1)).all()) for times in (uniform, normal, shifted, within))
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.005)
    logits = torch.logit(normal)
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.08)
    assert float(logits.std()) == pytest.approx(1.2, abs=0.06)
    # s t / (1 + (s - 1) t) of a uniform t has the median s / (s + 1)
    assert float(shifted.median()) == pytest.approx(0.75, abs=0.02)
    assert float(within.min()) >= 0.2
    assert float(within.max()) <= 0.6
    assert float(within.mean()) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(("strength", "left"), [(1.0, 11), (0.6, 7), (0.1, 2), (0.0, 1)])
def test_strength_cuts_a_schedule_as_published_if_a_step_starts_there(strength, left):
    grid = uniform_times(10)
    assert truncate_schedule(grid, strength).tolist() == pytest.approx(grid[11 - left :].tolist(), abs=1e-9)
    assert len(truncate_schedule(grid, strength)) == left


def test_a_strength_between_two_steps_starts_between_them():
    assert truncate_schedule(uniform_times(10), 0.57).tolist() == pytest.approx([0.43, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    uneven = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    assert truncate_schedule(uneven, 0.25).tolist() == pytest.approx([0.6, 1.0])
    assert truncate_schedule(uniform_times(1), 1e-3).tolist() == pytest.approx([0.999, 1.0])


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(ConfigError, match=r"strength: got .*, expected"):
        truncate_schedule(uniform_times(4), strength)
