"""Step callbacks: the state of each step, the x1 prediction, stopping, and continuing from another x_t."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core.sampling.test_generate import MODEL
from core.toy import ToyRequest, registry

from lumina_core.errors import ConfigError
from lumina_core.sampling.generate import generate_batch


def generate(callback, **settings):
    return generate_batch(MODEL, registry(), [ToyRequest(word="low", **{"steps": 4, **settings})], callback)


def recorded(**settings):
    states = []
    return states, generate(states.append, **settings)


def stop_if(condition):
    """A callback that stops as soon as a condition holds for the state."""
    return lambda state: state.stop() if condition(state) else None


def test_every_step_has_its_number_and_time_and_the_last_prediction_is_the_result():
    states, result = recorded()
    assert [(s.step, s.steps, s.time) for s in states] == [(1, 4, 0.25), (2, 4, 0.5), (3, 4, 0.75), (4, 4, 1.0)]
    assert all(state.indices == (0,) for state in states)
    assert torch.equal(states[-1].x1_pred.float(), result.data)


def test_a_callback_changes_neither_result_nor_nfe():
    result, alone = generate(lambda state: state.x1_pred and None if state.step > 9 else None), generate(None)
    assert torch.equal(result.data, alone.data) and result.nfe == alone.nfe
    assert result.metadata() == alone.metadata()


def test_predictions_approach_the_result():
    states, result = recorded(steps=8, solver="rk4")
    distances = [float((state.x1_pred - result.data).abs().mean()) for state in states]
    assert distances[-1] < distances[4] < distances[0]


def test_the_prediction_of_eulers_first_step_is_one_step_of_euler_to_the_end():
    states, _ = recorded(solver="euler")
    assert torch.allclose(states[0].x1_pred, generate(None, solver="euler", steps=1).data, atol=1e-5)


def test_a_stopped_result_is_the_prediction_of_its_last_step():
    states = []
    result = generate(lambda state: states.append(state) or stop_if(lambda s: s.step == 2)(state))
    assert torch.equal(result.data, states[-1].x1_pred.float())
    assert result.nfe == 4 and result.metadata()["stopped_at"] == 0.5
    assert torch.allclose(result.latents[0], result.data[0])  # the toy's latent is its data


@pytest.mark.parametrize("solver", ["dopri5", "adams"])
def test_every_solver_can_be_stopped(solver):
    pytest.importorskip("torchdiffeq")
    result = generate(stop_if(lambda state: state.time > 0.3), solver=solver)
    assert 0.3 < result.metadata()["stopped_at"] < 1
    assert bool(result.data.isfinite().all())


def test_stopping_at_the_last_step_is_not_recorded():
    assert "stopped_at" not in generate(stop_if(lambda state: state.time == 1)).metadata()


@pytest.mark.parametrize("solver", ["midpoint", "dopri5"])
@pytest.mark.parametrize("value", [True, 1, np.True_, "stop", torch.zeros(1)])
def test_another_return_value_is_refused(value, solver):
    pytest.importorskip("torchdiffeq")
    with pytest.raises(ConfigError, match=r"callback: got the return value .* state.stop\(\)"):
        generate(lambda state: value, solver=solver)


@pytest.mark.parametrize("solver", ["midpoint", "dopri5"])
def test_sampling_continues_from_a_returned_x_t(solver):
    pytest.importorskip("torchdiffeq")
    result = generate(lambda state: torch.zeros_like(state.x_t) if state.time == 1 else None, solver=solver)
    assert torch.equal(result.data, torch.zeros(1, 2, 6))
    halfway = [False]

    def jump(state):
        if state.time > 0.4 and not halfway[0]:
            halfway[0] = True
            return state.x_t + 5
        return None

    assert float((generate(jump, solver=solver).data - generate(None, solver=solver).data).abs().max()) > 0.1
