"""Whoever watches a way: each step, where it leads, and stopping there."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL
from core.toy import ToyRequest, registry

from lumina_core.sampling.generate import generate_batch


def watched(on_step, **asked):
    return generate_batch(MODEL, registry(), [ToyRequest(word="low", **{"steps": 4, **asked})], on_step)


def test_every_step_is_seen_with_its_number_and_time_and_the_last_is_the_result():
    seen = []
    found = watched(seen.append)
    assert [(at.step, at.steps, at.time) for at in seen] == [(1, 4, 0.25), (2, 4, 0.5), (3, 4, 0.75), (4, 4, 1.0)]
    assert torch.equal(seen[-1].x1_pred.float(), found.data)


def test_watching_changes_nothing_and_asks_nothing_more():
    seen = []
    found, alone = watched(lambda at: seen.append(at.x1_pred)), watched(None)
    assert torch.equal(found.data, alone.data) and found.nfe == alone.nfe
    assert found.metadata() == alone.metadata()


def test_what_forms_is_ever_nearer_to_the_result():
    seen = []
    found = watched(seen.append, steps=8, solver="rk4")
    away = [float((at.x1_pred - found.data).abs().mean()) for at in seen]
    assert away[-1] < away[4] < away[0]


def test_euler_foretells_what_the_network_says_of_the_data():
    """One step of Euler to the end is where the first of several leads."""
    seen = []
    watched(seen.append, solver="euler")
    assert torch.allclose(seen[0].x1_pred, watched(None, solver="euler", steps=1).data, atol=1e-5)


def test_a_way_that_is_stopped_gives_what_its_last_step_foretold_and_says_so():
    seen = []
    found = watched(lambda at: seen.append(at) or at.step == 2)
    assert torch.equal(found.data, seen[-1].x1_pred.float())
    assert found.nfe == 4 and found.metadata()["stopped_at"] == 0.5


@pytest.mark.parametrize("solver", ["dopri5", "adams"])
def test_solvers_of_every_form_are_seen_and_stopped(solver):
    pytest.importorskip("torchdiffeq")
    found = watched(lambda at: at.time > 0.3, solver=solver)
    assert 0.3 < found.metadata()["stopped_at"] < 1
    assert bool(found.data.isfinite().all())


def test_stopping_at_the_last_step_is_no_stop():
    assert "stopped_at" not in watched(lambda at: at.time == 1).metadata()
