"""The adaptive solver: tolerances, counted and limited evaluations, and no time outside the schedule."""

from __future__ import annotations

import pytest
import torch
from core.flow.test_solvers import end_of_spiral, spiral

from lumina_core.errors import ConfigError, PluginError
from lumina_core.flow import solvers
from lumina_core.flow.solvers import AdaptiveRungeKutta, StopIntegrationError, integrate

pytest.importorskip("torchdiffeq", reason="an extra: lumina-core[adaptive]")

X = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def solver(**options):
    return AdaptiveRungeKutta(AdaptiveRungeKutta.Config.read(options, "test"))


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_tighter_tolerances_cost_more_evaluations_and_reduce_the_error(method):
    results = [integrate(spiral, X, ENDS, solver(method=method, rtol=r, atol=r)) for r in (1e-2, 1e-5)]
    errors = [float((result.values - end_of_spiral(X)).norm()) for result in results]
    assert errors[1] < errors[0] / 10 and errors[1] < 1e-3
    assert results[1].nfe > results[0].nfe


def test_no_time_outside_the_interval_is_evaluated_and_integrating_back_restores_x():
    times = []

    def watched(x, t):
        times.append(t)
        return spiral(x, t)

    there = integrate(watched, X, ENDS, solver(rtol=1e-8, atol=1e-8))
    back = integrate(watched, there.values, ENDS.flip(0), solver(rtol=1e-8, atol=1e-8))
    assert (min(times), max(times)) == (0, 1)
    assert len(times) == there.nfe + back.nfe
    assert back.values.numpy() == pytest.approx(X.numpy(), abs=1e-6)


def test_the_error_of_an_item_does_not_grow_in_a_batch():
    strict = {"rtol": 1e-4, "atol": 1e-4}
    easy = torch.zeros(63, 2, dtype=torch.float64)
    together = integrate(spiral, torch.cat([X, easy]), ENDS, solver(**strict)).values[:2]
    alone = integrate(spiral, X, ENDS, solver(**strict)).values
    assert float((together - end_of_spiral(X)).norm()) <= 2 * float((alone - end_of_spiral(X)).norm())


def test_on_step_receives_steps_in_order_and_can_stop():
    calls = []
    found = integrate(spiral, X, ENDS, solver(), lambda done, time, x: calls.append((done, time)))
    assert [done for done, _ in calls] == list(range(1, found.steps + 1))
    assert [time for _, time in calls] == sorted(time for _, time in calls) and calls[-1][1] == 1

    def stop_at_two(done, time, x):
        if done == 2:
            raise StopIntegrationError

    stopped = integrate(spiral, X, ENDS, solver(), stop_at_two)
    assert stopped.steps == 2 and stopped.nfe < found.nfe


def test_more_evaluations_than_allowed_are_refused():
    with pytest.raises(ConfigError, match="got a limit of 9 evaluations"):
        integrate(spiral, X, ENDS, solver(rtol=1e-8), max_nfe=9)


def test_a_missing_library_is_reported_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(PluginError, match=r"pip install"):
        integrate(spiral, X, ENDS, solvers.AdaptiveRungeKutta())
