"""Context drop: what is averaged and what is not, windows of every kind, and the blocks that do it at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, drawn, flag_dit, next_dit, picture, said, times
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.models.context_drop import TimeAwareContextDrop, make_token_pool
from lumina_core.models.dit import pooled_scale
from lumina_core.types import Condition, stack_tokens

WINDOWS = {next_dit: (1, 2, 2), flag_dit: (3, 1, 1)}
both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


def drop(**options):
    return TimeAwareContextDrop(TimeAwareContextDrop.Config.read(options, "test"))


def answer(model, tokens, condition, window, which=None, scale=None):
    prepared = model.with_context_drop(
        model.precompute(tokens, condition), model.make_token_pool(tokens, condition, window), scale=scale
    )
    prepared = model.set_dropped_blocks(prepared, (True,) * model.num_layers if which is None else which)
    return model(tokens, times(len(tokens.values)), condition, precomputed=prepared).hidden_states


@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from(["last", "first", "spread"]))
def test_all_blocks_average_at_noise_none_at_data_and_ever_fewer_between(depth, time, keep):
    of = drop(keep_blocks=keep)
    assert all(of.dropped_blocks(depth, 0.0)) and not any(of.dropped_blocks(depth, 1.0))
    now, later = (sum(of.dropped_blocks(depth, t)) for t in (time, min(1.0, time + 0.1)))
    assert now == round((1 - time) * depth) and later <= now


def test_the_options_say_which_blocks_how_many_and_how_fast():
    assert drop().dropped_blocks(4, 0.5) == (True, True, False, False)
    assert drop(keep_blocks="first").dropped_blocks(4, 0.5) == (False, False, True, True)
    assert drop(keep_blocks="spread").dropped_blocks(4, 0.5) == (False, True, False, True)
    assert drop(max_fraction=0.5).dropped_blocks(4, 0.0) == (True, True, False, False)
    assert drop(exponent=0.0).dropped_blocks(4, 1.0) == (True,) * 4
    assert sum(drop(exponent=2.0).dropped_blocks(8, 0.5)) == 2


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_a_whole_grid_is_averaged_the_same_by_views_and_by_lists(rows, columns, frames):
    axes = torch.meshgrid(*(torch.arange(2.0 * n) for n in (frames, rows, columns)), indexing="ij")
    places = torch.stack(axes, dim=-1).reshape(1, -1, 3)
    by_view = make_token_pool(places, None, (1, 2, 2))
    by_list = make_token_pool(places, torch.ones(places.shape[:2], dtype=torch.bool), (1, 2, 2))
    assert by_view.grid_shape is not None and by_list.grid_shape is None
    x = drawn((2, places.shape[1], 5))
    assert torch.allclose(by_view(x), by_list(x.clone()), atol=1e-6)
    assert torch.equal(by_view.positions, by_list.positions)
    assert by_view.bias is None and by_list.bias is None  # where all are alike nothing is weighed


def test_windows_at_the_border_are_smaller_and_weigh_less():
    pool = make_token_pool(picture(3, 3).positions, None, (1, 2, 2))
    assert pool.positions[0].tolist() == [[0, 0.5, 0.5], [0, 0.5, 2], [0, 2, 0.5], [0, 2, 2]]
    assert pool.bias.exp().flatten().tolist() == pytest.approx([4, 2, 2, 1])
    x = torch.arange(9.0).view(1, 9, 1)
    assert pool(x).flatten().tolist() == pytest.approx([2, 3.5, 6.5, 8])


def test_windows_begin_at_the_first_place_wherever_it_is():
    here, there = picture(2, 4).positions, picture(2, 4).positions + torch.tensor([0, 5, -3])
    assert torch.equal(make_token_pool(there, None, (1, 2, 2)).positions, make_token_pool(here, None, (1, 2, 2)).positions
                       + torch.tensor([0, 5, -3]))  # fmt: skip


@both
@torch.no_grad()
def test_windows_of_one_token_change_nothing(build):
    model, tokens = build(), picture(2, 4, batch=2)
    plain = model(tokens, times(2), said(2)).hidden_states
    assert torch.allclose(answer(model, tokens, said(2), (1, 1, 1)), plain, atol=1e-5)


@both
@torch.no_grad()
def test_no_block_that_averages_is_the_plain_answer_and_one_is_not(build):
    model, tokens, window = build(), picture(2, 4, batch=2), WINDOWS[build]
    plain = model(tokens, times(2), said(2)).hidden_states
    assert torch.equal(answer(model, tokens, said(2), window, (False, False)), plain)
    assert float((answer(model, tokens, said(2), window, (True, False)) - plain).abs().max()) > 1e-3


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_a_padded_batch_averages_as_its_items_do(build, backend):
    model, window = build(attn_backend=backend), WINDOWS[build]
    items = [picture(3, 4, seed=1), picture(2, 2, seed=2), picture(1, 5, seed=3)]
    tokens, condition = stack_tokens(items), said(3)
    spoilt = tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], 1e3))
    together = tokens.with_values(answer(model, spoilt, condition, window)).items()
    for place, alone in enumerate(items):
        own = Condition(context=condition.context[place : place + 1], pooled=condition.pooled[place : place + 1])
        prepared = model.set_dropped_blocks(
            model.with_context_drop(model.precompute(alone, own), model.make_token_pool(alone, own, window)),
            (True, True),
        )
        wanted = model(alone, times(3)[place : place + 1], own, precomputed=prepared).hidden_states
        assert torch.allclose(together[place].values, wanted, atol=2e-5)


@both
@torch.no_grad()
def test_every_way_of_attention_agrees_on_averaged_keys(build):
    tokens, condition = picture(3, 5, batch=2), said(2)  # uneven windows: keys are weighed
    fused, matmul = (
        answer(build(attn_backend=backend), tokens, condition, WINDOWS[build]) for backend in ("fused", "matmul")
    )
    assert torch.allclose(fused, matmul, atol=1e-5)


@torch.no_grad()
def test_moving_every_place_changes_nothing_and_the_middle_of_a_window_is_where_its_key_stands():
    model, tokens = next_dit(), picture(4, 4)
    moved = replace(tokens, positions=tokens.positions + torch.tensor([0, 7, -2]))
    silent = Condition(pooled=said(1).pooled)  # text is not turned, so it hears of the places
    one, other = (answer(model, t, silent, (1, 2, 2)) for t in (tokens, moved))
    assert torch.allclose(one, other, atol=1e-5)
    pool = model.make_token_pool(tokens, said(1), (1, 2, 2))
    assert pool.positions[0, 0].tolist() == [0, 0.5, 0.5]


@torch.no_grad()
def test_a_wrapped_projection_gives_the_same():
    model, tokens = next_dit(), picture(2, 4)
    wanted = answer(model, tokens, said(1), (1, 2, 2))
    for block in model.blocks:
        block.attention.qkv = torch.nn.Sequential(block.attention.qkv)
    assert torch.allclose(answer(model, tokens, said(1), (1, 2, 2)), wanted, atol=1e-6)


@torch.no_grad()
def test_a_context_is_averaged_with_nobody():
    model, tokens = next_dit(), picture(2, 4)
    condition = replace(said(1), reference=picture(1, 3, seed=5))
    pool = model.make_token_pool(tokens, condition, (1, 2, 2))
    assert pool.positions.shape[1] == 2 + 3
    assert pool.bias.exp().flatten().tolist() == pytest.approx([4, 4, 1, 1, 1])
    assert bool(answer(model, tokens, condition, (1, 2, 2)).isfinite().all())


def test_proportional_attention_counts_the_keys_that_are_seen():
    model = next_dit()
    tokens = stack_tokens([picture(4, 4), picture(2, 2)])
    seen = pooled_scale(model.make_token_pool(tokens, said(2), (1, 2, 2)), 4, 8).flatten().tolist()
    assert seen == pytest.approx([8**-0.5, 0.0])
    assert pooled_scale(model.make_token_pool(picture(4, 4), said(1), (1, 2, 2)), 4, 8) == pytest.approx(8**-0.5)


@torch.no_grad()
def test_other_frequencies_turn_the_averaged_keys_too():
    model, tokens, condition = next_dit(), picture(4, 4), said(1)
    half = tuple(own / 2 for own in model.frequencies())
    pool = model.make_token_pool(tokens, condition, (1, 2, 2))
    at_once = model.with_context_drop(model.precompute(tokens, condition, half), pool, half)
    later = model.update_rope(
        model.with_context_drop(model.precompute(tokens, condition), pool), tokens, condition, half
    )
    one, other = (
        model(tokens, times(1), condition, precomputed=model.set_dropped_blocks(ready, (True, True))).hidden_states
        for ready in (at_once, later)
    )
    assert torch.equal(one, other)
