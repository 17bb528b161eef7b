"""A memory read by regions: each token hears its own, shares weigh, and one region over everything is no region."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, drawn, picture, said, times

from lumina_core.conditioning.ops import combine_regions, stack
from lumina_core.types import Condition

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


def spoken(seed, entries=4):
    return Condition(context=drawn((1, entries, 12), seed), pooled=drawn((1, 10), 3))


@both
@torch.no_grad()
def test_one_region_over_everything_is_the_plain_memory(build):
    model, tokens = build(), picture(2, 3)
    wanted = model(tokens, times(1), spoken(1)).hidden_states
    got = model(tokens, times(1), combine_regions([spoken(1)], torch.ones(1, 6))).hidden_states
    assert torch.allclose(got, wanted, atol=1e-6)


@both
@torch.no_grad()
def test_a_token_hears_only_the_regions_that_it_has_a_share_of(build):
    model, tokens = build(num_layers=1), picture(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    one, other = (
        model(tokens, times(1), combine_regions([spoken(1), spoken(seed)], shares)).hidden_states for seed in (2, 5)
    )
    # after a single block no token has heard of the others' captions
    assert torch.equal(one[:, :3], other[:, :3])
    assert float((one - other)[:, 3:].abs().min(dim=-1).values.max()) > 0


@both
@torch.no_grad()
def test_the_same_words_everywhere_by_shares_of_a_half_are_the_words_alone(build):
    model, tokens = build(), picture(2, 3)
    halves = combine_regions([spoken(1), spoken(1)], torch.full((2, 6), 0.5))
    wanted = model(tokens, times(1), spoken(1)).hidden_states
    assert torch.allclose(model(tokens, times(1), halves).hidden_states, wanted, atol=1e-5)


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_a_batch_with_and_without_regions_equals_its_items(build, backend):
    model, tokens = build(attn_backend=backend), picture(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    regional, plain = combine_regions([spoken(1, 2), spoken(2, 5)], shares), spoken(4, 3)
    twice = replace(picture(2, 3, batch=2), values=tokens.values.expand(2, -1, -1))
    together = model(twice, times(1).expand(2), stack([regional, plain])).hidden_states
    for row, alone in enumerate((regional, plain)):
        assert torch.allclose(together[row], model(tokens, times(1), alone).hidden_states[0], atol=1e-5)


@both
@torch.no_grad()
def test_a_token_without_any_region_hears_nothing(build):
    model, tokens = build(), picture(2, 3)
    nowhere = combine_regions([spoken(1), spoken(2)], torch.zeros(2, 6))
    other = combine_regions([spoken(5), spoken(6)], torch.zeros(2, 6))
    assert torch.equal(model(tokens, times(1), nowhere).hidden_states, model(tokens, times(1), other).hidden_states)


@both
@torch.no_grad()
def test_context_tokens_read_every_region_alike(build):
    model, tokens = build(), picture(2, 3)
    shares = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    regional = replace(combine_regions([spoken(1), spoken(1)], shares), reference=picture(1, 2, seed=4))
    plain = replace(spoken(1), reference=picture(1, 2, seed=4))
    got, wanted = (model(tokens, times(1), condition).hidden_states for condition in (regional, plain))
    assert torch.allclose(got, wanted, atol=1e-5)
    assert said(1).reference is None
