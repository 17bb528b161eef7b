"""Coordinate search over a schedule: never a larger error, a local minimum, and at most the predicted cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.flow.schedules import uniform_times
from lumina_core.sampling.schedule_fit import coordinate_search, search_cost


def bowl(lowest):
    """An error with its minimum at these times."""
    return lambda times: float((times - torch.tensor(lowest, dtype=torch.float64)).square().sum().sqrt())


def test_times_move_to_the_minimum_of_the_error():
    lowest = [0, 0.1, 0.2, 0.45, 0.9, 1]
    found = coordinate_search(uniform_times(5), range(1, 5), bowl(lowest))
    assert found.tolist() == pytest.approx(lowest, abs=0.01)


def test_fixed_times_do_not_move():
    found = coordinate_search(uniform_times(4), [1, 3], bowl([0, 0.1, 0.2, 0.9, 1]))
    assert found[2] == 0.5 and found[1] == pytest.approx(0.1, abs=0.01) and found[3] == pytest.approx(0.9, abs=0.01)


@given(st.integers(0, 2**30), st.integers(2, 7))
def test_the_error_never_grows_and_the_schedule_stays_valid_for_any_error_function(seed, steps):
    draw = torch.Generator().manual_seed(seed)
    errors: dict[tuple[float, ...], float] = {}

    def error(times):
        value = float(torch.rand((), generator=draw))
        return errors.setdefault(tuple(times.tolist()), float("nan") if value > 0.9 else value)

    start = uniform_times(steps)
    errors[tuple(start.tolist())] = 0.5
    found = coordinate_search(start, range(1, steps), error)
    assert errors[tuple(found.tolist())] <= 0.5
    assert (float(found[0]), float(found[-1])) == (0, 1) and bool((found.diff() > 0).all())


def test_the_search_takes_at_most_the_predicted_number_of_steps():
    changed, before = 0, []

    def error(times):
        nonlocal changed, before
        now = times.tolist()
        same = next((k for k, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before) or 1)
        changed, before = changed + len(now) - same, now
        return bowl([0, 0.1, 0.3, 0.4, 0.8, 1])(times)

    coordinate_search(uniform_times(5), range(1, 5), error)
    assert 100 < changed <= search_cost(5, range(1, 5))
