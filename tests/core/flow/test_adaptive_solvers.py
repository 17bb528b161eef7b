"""The adaptive solver: tolerances are kept, evaluations counted and limited, no time outside the grid is asked for."""

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
def test_tighter_tolerances_cost_more_and_come_nearer(method):
    ways = [integrate(spiral, X, ENDS, solver(method=method, rtol=r, atol=r)) for r in (1e-2, 1e-5)]
    errors = [float((way.values - end_of_spiral(X)).norm()) for way in ways]
    assert errors[1] < errors[0] / 10 and errors[1] < 1e-3
    assert ways[1].nfe > ways[0].nfe


def test_no_time_outside_the_ends_is_asked_for_and_the_way_back_leads_home():
    asked = []

    def watched(x, t):
        asked.append(t)
        return spiral(x, t)

    there = integrate(watched, X, ENDS, solver(rtol=1e-8, atol=1e-8))
    back = integrate(watched, there.values, ENDS.flip(0), solver(rtol=1e-8, atol=1e-8))
    assert (min(asked), max(asked)) == (0, 1)
    assert len(asked) == there.nfe + back.nfe
    assert back.values.numpy() == pytest.approx(X.numpy(), abs=1e-6)


def test_company_makes_an_item_no_less_exact():
    strict = {"rtol": 1e-4, "atol": 1e-4}
    easy = torch.zeros(63, 2, dtype=torch.float64)
    together = integrate(spiral, torch.cat([X, easy]), ENDS, solver(**strict)).values[:2]
    alone = integrate(spiral, X, ENDS, solver(**strict)).values
    assert float((together - end_of_spiral(X)).norm()) <= 2 * float((alone - end_of_spiral(X)).norm())


def test_steps_are_seen_in_order_and_may_stop_the_way():
    seen = []
    found = integrate(spiral, X, ENDS, solver(), lambda done, time, x: seen.append((done, time)))
    assert [done for done, _ in seen] == list(range(1, found.steps + 1))
    assert [time for _, time in seen] == sorted(time for _, time in seen) and seen[-1][1] == 1

    def stop_at_two(done, time, x):
        if done == 2:
            raise StopIntegrationError

    stopped = integrate(spiral, X, ENDS, solver(), stop_at_two)
    assert stopped.steps == 2 and stopped.nfe < found.nfe


def test_more_evaluations_than_allowed_are_refused():
    with pytest.raises(ConfigError, match="got a limit of 9 evaluations"):
        integrate(spiral, X, ENDS, solver(rtol=1e-8), max_nfe=9)


def test_without_the_library_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(PluginError, match=r"pip install 'lumina-core\[adaptive\]'"):
        integrate(spiral, X, ENDS, solvers.AdaptiveRungeKutta())
