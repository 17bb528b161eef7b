"""Regional contexts: each token attends to its regions by weight, and one region over all tokens is a plain context."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens, seeded_randn

from lumina_core.conditioning.ops import combine_regions, stack
from lumina_core.types import Condition

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


def make_context(seed, entries=4):
    return Condition(context=seeded_randn((1, entries, 12), seed), pooled=seeded_randn((1, 10), 3))


@both
@torch.no_grad()
def test_one_region_over_all_tokens_equals_a_plain_context(build):
    model, tokens = build(), make_tokens(2, 3)
    expected = model(tokens, make_times(1), make_context(1)).hidden_states
    got = model(tokens, make_times(1), combine_regions([make_context(1)], torch.ones(1, 6))).hidden_states
    assert torch.allclose(got, expected, atol=1e-6)


@both
@torch.no_grad()
def test_a_token_attends_only_to_regions_with_a_weight(build):
    model, tokens = build(num_layers=1), make_tokens(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    one, other = (
        model(tokens, make_times(1), combine_regions([make_context(1), make_context(seed)], shares)).hidden_states
        for seed in (2, 5)
    )
    # after a single block no token has information of the captions of other regions
    assert torch.equal(one[:, :3], other[:, :3])
    assert float((one - other)[:, 3:].abs().min(dim=-1).values.max()) > 0


@both
@torch.no_grad()
def test_two_equal_regions_of_half_weight_equal_one_context(build):
    model, tokens = build(), make_tokens(2, 3)
    halves = combine_regions([make_context(1), make_context(1)], torch.full((2, 6), 0.5))
    expected = model(tokens, make_times(1), make_context(1)).hidden_states
    assert torch.allclose(model(tokens, make_times(1), halves).hidden_states, expected, atol=1e-5)


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_a_batch_with_and_without_regions_equals_its_items(build, backend):
    model, tokens = build(attn_backend=backend), make_tokens(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    regional, plain = combine_regions([make_context(1, 2), make_context(2, 5)], shares), make_context(4, 3)
    twice = replace(make_tokens(2, 3, batch=2), values=tokens.values.expand(2, -1, -1))
    together = model(twice, make_times(1).expand(2), stack([regional, plain])).hidden_states
    for row, alone in enumerate((regional, plain)):
        assert torch.allclose(together[row], model(tokens, make_times(1), alone).hidden_states[0], atol=1e-5)


@both
@torch.no_grad()
def test_a_token_without_any_region_has_no_cross_attention(build):
    model, tokens = build(), make_tokens(2, 3)
    nowhere = combine_regions([make_context(1), make_context(2)], torch.zeros(2, 6))
    other = combine_regions([make_context(5), make_context(6)], torch.zeros(2, 6))
    assert torch.equal(
        model(tokens, make_times(1), nowhere).hidden_states, model(tokens, make_times(1), other).hidden_states
    )


@both
@torch.no_grad()
def test_reference_tokens_attend_to_all_regions_equally(build):
    model, tokens = build(), make_tokens(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    regional = replace(combine_regions([make_context(1), make_context(1)], shares), reference=make_tokens(1, 2, seed=4))
    plain = replace(make_context(1), reference=make_tokens(1, 2, seed=4))
    got, expected = (model(tokens, make_times(1), condition).hidden_states for condition in (regional, plain))
    assert torch.allclose(got, expected, atol=1e-5)
    assert make_condition(1).reference is None
