"""A grid that is improved by trying: never worse, as good as it can be, and no dearer than was said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.flow.schedules import uniform_times
from lumina_core.sampling.schedule_fit import coordinate_search, search_cost


def bowl(lowest):
    """An error that is least at these times."""
    return lambda times: float((times - torch.tensor(lowest, dtype=torch.float64)).square().sum().sqrt())


def test_times_come_to_where_the_error_is_least():
    lowest = [0, 0.1, 0.2, 0.45, 0.9, 1]
    found = coordinate_search(uniform_times(5), range(1, 5), bowl(lowest))
    assert found.tolist() == pytest.approx(lowest, abs=0.01)


def test_only_the_times_that_are_free_move():
    found = coordinate_search(uniform_times(4), [1, 3], bowl([0, 0.1, 0.2, 0.9, 1]))
    assert found[2] == 0.5 and found[1] == pytest.approx(0.1, abs=0.01) and found[3] == pytest.approx(0.9, abs=0.01)


@given(st.integers(0, 2**30), st.integers(2, 7))
def test_whatever_the_error_it_never_becomes_larger_and_the_grid_stays_a_grid(seed, steps):
    draw = torch.Generator().manual_seed(seed)
    known: dict[tuple[float, ...], float] = {}

    def error(times):
        said = float(torch.rand((), generator=draw))
        return known.setdefault(tuple(times.tolist()), float("nan") if said > 0.9 else said)

    start = uniform_times(steps)
    known[tuple(start.tolist())] = 0.5
    found = coordinate_search(start, range(1, steps), error)
    assert known[tuple(found.tolist())] <= 0.5
    assert (float(found[0]), float(found[-1])) == (0, 1) and bool((found.diff() > 0).all())


def test_no_more_steps_are_gone_than_was_foretold():
    gone, before = 0, []

    def error(times):
        nonlocal gone, before
        now = times.tolist()
        same = next((k for k, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before) or 1)
        gone, before = gone + len(now) - same, now
        return bowl([0, 0.1, 0.3, 0.4, 0.8, 1])(times)

    coordinate_search(uniform_times(5), range(1, 5), error)
    assert 100 < gone <= search_cost(5, range(1, 5))
