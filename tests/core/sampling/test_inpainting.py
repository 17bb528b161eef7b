"""Initial data: constrained values follow their own path at all times."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL
from core.toy import LENGTH

from lumina_core.errors import ConfigError, ShapeError
from lumina_core.flow.schedules import uniform_times
from lumina_core.flow.solvers import euler, heun, integrate, midpoint, rk4
from lumina_core.sampling.inputs import PrecomputedInputs, batch_init_data, init_state
from lumina_core.sampling.resolve import round_up_size
from lumina_core.sampling.velocity import GuidanceConfig, SamplingVelocity
from lumina_core.types import InitData

DATA = torch.linspace(-1, 1, 2 * LENGTH).view(1, 2, LENGTH)
NOISE = torch.randn(3, LENGTH, 2, generator=torch.Generator().manual_seed(0))
KEEP_MASK = torch.tensor([[1.0, 1, 1, 0, 0, 0.5]])


def make_state(**expected_data):
    return init_state(
        MODEL, InitData(DATA, **{"keep_mask": KEEP_MASK, **expected_data}), (LENGTH,), uniform_times(4), NOISE
    )


def constrained(start, velocity):
    """A velocity under the constraint of an initial state."""
    return SamplingVelocity(lambda: velocity, None, None, GuidanceConfig(), constraint=start.constraint)


@pytest.mark.parametrize("solver", [euler, midpoint, heun, rk4])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_solvers_of_any_order_integrate_constrained_values_to_their_data(solver, strength):
    begin = make_state(strength=strength)
    found = integrate(constrained(begin, lambda x, t: torch.sin(7 * x)), begin.x, begin.schedule, solver).values
    expected_data = DATA.transpose(1, 2)[:, :3].expand(3, -1, -1)
    torch.testing.assert_close(found[:, :3], expected_data, atol=1e-6, rtol=0)
    assert float((found[:, 3:] - DATA.transpose(1, 2)[:, 3:]).abs().min()) > 1e-4


def test_constrained_values_are_noised_to_the_current_time():
    put = make_state().constrain_values(torch.zeros(3, LENGTH, 2), 0.25)
    torch.testing.assert_close(put[:, :3], 0.25 * DATA.transpose(1, 2)[:, :3] + 0.75 * NOISE[:, :3])
    assert float(put[:, 3:].abs().max()) == 0


def test_a_fractional_keep_mask_blends_and_a_full_one_restores_data_exactly():
    made = torch.full((3, 2, LENGTH), 9.0)
    finished = make_state().blend_kept(made)
    assert torch.equal(finished[..., :3], DATA[..., :3].expand(3, -1, -1))
    assert torch.equal(finished[..., 3:5], made[..., 3:5])
    torch.testing.assert_close(finished[..., 5], (DATA[..., 5] + 9) / 2 * torch.ones(3, 2))


def test_sizes_are_rounded_up_to_the_patch_size_of_the_tokenizer(monkeypatch):
    assert round_up_size(MODEL, (5,)) == (5,)
    monkeypatch.setattr(MODEL.tokenizer, "patch_size", (4,), raising=False)
    assert (round_up_size(MODEL, (5,)), round_up_size(MODEL, (8,))) == ((8,), (8,))


def test_data_of_another_size_or_strength_is_refused():
    with pytest.raises(ShapeError, match="initial data"):
        batch_init_data([], PrecomputedInputs(data=DATA), lambda: (LENGTH + 1,))
    with pytest.raises(ConfigError, match=r"strength: got 1\.5, expected 0\.\.1"):
        batch_init_data([], PrecomputedInputs(data=DATA, strength=1.5), lambda: (LENGTH,))
