"""In-place operations without gradients: equal outputs, and no tensor of a hook is overwritten."""

from __future__ import annotations

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens, seeded_randn

from lumina_core.models.layers import RMSNorm, add_normed

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


def by_formula(norm, x, by):
    return x.double() / (x.double().square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double() * by


@pytest.mark.parametrize(
    "by", [1.0, torch.tensor([[[0.5, 2.0, -1.0, 3.0]], [[1.0, 0.0, 4.0, 1.0]]])], ids=["1", "each"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_the_same_with_and_without_gradients_and_keep_their_inputs(dtype, by):
    norm, x, made = RMSNorm(4, 1e-5), seeded_randn((2, 3, 4), 1).to(dtype), seeded_randn((2, 3, 4), 2).to(dtype)
    torch.nn.init.normal_(norm.weight.data)
    norm, before = norm.to(dtype), (x.clone(), made.clone())
    by = by.to(dtype) if isinstance(by, torch.Tensor) else by
    expected = by_formula(norm, made, by)
    close = {"atol": 1e-6 if dtype == torch.float32 else 0.06}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.allclose(norm(made, by).double(), expected, **close)
            assert torch.allclose(add_normed(x, made, norm, by).double(), x.double() + expected, **close)
    assert torch.equal(x, before[0]) and torch.equal(made, before[1])


@both
def test_outputs_that_hooks_keep_are_not_overwritten(build):
    model, tokens, condition = build(), make_tokens(4, 4), make_condition(1)
    outputs, copies, called = [], [], set()

    def watch(module, inputs, answer):
        called.add(module)
        if isinstance(answer, torch.Tensor):
            outputs.append(answer)
            copies.append(answer.clone())

    for module in model.modules():
        module.register_forward_hook(watch)
    with torch.no_grad():
        watched = model(tokens, make_times(len(tokens.values)), condition).hidden_states
    norms = {module for module in model.modules() if isinstance(module, RMSNorm)} - {
        b.context_norm for b in model.blocks
    }
    assert norms <= called and all(torch.equal(now, then) for now, then in zip(outputs, copies, strict=True))
    for module in model.modules():
        module._forward_hooks.clear()
    with torch.no_grad():
        assert torch.allclose(
            model(tokens, make_times(len(tokens.values)), condition).hidden_states, watched, atol=1e-5
        )
