"""Attention backends give equal outputs."""

from __future__ import annotations

import pytest
import torch
from backbones import seeded_randn

from lumina_core.models.attention import BACKENDS, proportional_attn_scale, sdpa

MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]).bool()[:, None, None]


def make_inputs(shared: int, keys: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return seeded_randn((2, 4, 5, 8), 1), seeded_randn((2, shared, keys, 8), 2), seeded_randn((2, shared, keys, 8), 3)


def by_formula(q, k, v, mask, scale):
    """One query at a time, in float64; key head j serves query heads j * r to (j + 1) * r - 1, as published."""
    answer = torch.zeros(q.shape, dtype=torch.float64)
    for item in range(q.shape[0]):
        for head in range(q.shape[1]):
            key_head = head // (q.shape[1] // k.shape[1])
            for place in range(q.shape[2]):
                real = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[item, 0, 0]
                scores = k[item, key_head, real].double() @ q[item, head, place].double() * scale
                answer[item, head, place] = (scores.exp() / scores.exp().sum()) @ v[item, key_head, real].double()
    return answer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all real", "masked"])
def test_every_backend_equals_softmax_attention_in_float64(backend, shared, mask):
    q, k, v = make_inputs(shared)
    got = sdpa(q, k, v, mask, 0.3, backend)
    assert torch.allclose(got.double(), by_formula(q, k, v, mask, 0.3), atol=1e-6)


@pytest.mark.parametrize("scores", [2**20, 75, 28, 1], ids=["at once", "heads", "rows", "one"])
@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, MASK, MASK.float().log()], ids=["all real", "masked", "weighed"])
def test_blockwise_bfloat16_attention_is_exact_up_to_rounding_for_any_block_size(monkeypatch, mask, shared, scores):
    monkeypatch.setattr("lumina_core.models.cpu_kernels.BLOCK_SCORES", scores)
    q, k, v = (tensor.bfloat16() for tensor in make_inputs(shared))
    with torch.inference_mode():
        got = sdpa(q, k, v, mask, 0.25)
    expected = by_formula(q, k, v, MASK if mask is not None else None, 0.25)
    assert got.dtype == torch.bfloat16 and torch.allclose(got.double(), expected, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_items_may_have_different_scales(backend):
    q, k, v = make_inputs(2)
    got = sdpa(q, k, v, MASK, torch.tensor([0.2, 0.5]).view(2, 1, 1, 1), backend)
    for item, scale in enumerate((0.2, 0.5)):
        assert torch.allclose(got[item].double(), by_formula(q, k, v, MASK, scale)[item], atol=1e-6)


def test_proportional_attention_is_usual_at_the_training_length_and_sharper_beyond():
    assert proportional_attn_scale(4096, 4096, 72) == pytest.approx(72**-0.5)
    # 2048 x 2048 pixels: ln 16384 / ln 4096 = 7 / 6
    assert proportional_attn_scale(16384, 4096, 72) / proportional_attn_scale(4096, 4096, 72) == pytest.approx(
        (7 / 6) ** 0.5
    )
    assert proportional_attn_scale(torch.tensor([16, 256]), 16, 8).tolist() == pytest.approx([8**-0.5, 0.5])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [4, 1])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all real", "masked"])
def test_every_backend_has_the_gradients_of_softmax_attention(backend, shared, mask):
    inputs = [tensor.requires_grad_() for tensor in make_inputs(shared)]
    copies = [tensor.detach().double().requires_grad_() for tensor in inputs]
    sdpa(*inputs, mask, 0.3, backend).square().sum().backward()
    by_formula(*copies, mask, 0.3).square().sum().backward()
    for ours, theirs in zip(inputs, copies, strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_keys_have_no_effect_at_all(backend):
    q, k, v = make_inputs(2)
    under = ~MASK[:, :, 0, :, None]
    garbage = sdpa(q, k.masked_fill(under, 1e4), v.masked_fill(under, -1e4), MASK, 0.3, backend)
    assert torch.equal(garbage, sdpa(q, k, v, MASK, 0.3, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_scores_do_not_overflow(backend):
    q, k, v = make_inputs(4)
    assert sdpa(1e4 * q, 1e4 * k, v, None, 1.0, backend).isfinite().all()
