"""Context drop: averaged tokens, windows of all shapes, and the dropped blocks at each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, flag_dit, make_condition, make_times, make_tokens, next_dit, seeded_randn
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
    return model(tokens, make_times(len(tokens.values)), condition, precomputed=prepared).hidden_states


@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from(["last", "first", "spread"]))
def test_all_blocks_average_at_noise_none_at_data_and_ever_fewer_between(depth, time, keep):
    of = drop(keep_blocks=keep)
    assert all(of.dropped_blocks(depth, 0.0)) and not any(of.dropped_blocks(depth, 1.0))
    now, later = (sum(of.dropped_blocks(depth, t)) for t in (time, min(1.0, time + 0.1)))
    assert now == round((1 - time) * depth) and later <= now


def test_options_choose_number_order_and_decay_of_dropped_blocks():
    assert drop().dropped_blocks(4, 0.5) == (True, True, False, False)
    assert drop(keep_blocks="first").dropped_blocks(4, 0.5) == (False, False, True, True)
    assert drop(keep_blocks="spread").dropped_blocks(4, 0.5) == (False, True, False, True)
    assert drop(max_fraction=0.5).dropped_blocks(4, 0.0) == (True, True, False, False)
    assert drop(exponent=0.0).dropped_blocks(4, 1.0) == (True,) * 4
    assert sum(drop(exponent=2.0).dropped_blocks(8, 0.5)) == 2


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_grid_windows_equal_irregular_windows(rows, columns, frames):
    axes = torch.meshgrid(*(torch.arange(2.0 * n) for n in (frames, rows, columns)), indexing="ij")
    grid = torch.stack(axes, dim=-1).reshape(1, -1, 3)
    by_view = make_token_pool(grid, None, (1, 2, 2))
    by_list = make_token_pool(grid, torch.ones(grid.shape[:2], dtype=torch.bool), (1, 2, 2))
    assert by_view.grid_shape is not None and by_list.grid_shape is None
    x = seeded_randn((2, grid.shape[1], 5))
    assert torch.allclose(by_view(x), by_list(x.clone()), atol=1e-6)
    assert torch.equal(by_view.positions, by_list.positions)
    assert by_view.bias is None and by_list.bias is None  # where all are alike nothing is weighed


def test_windows_at_the_border_are_smaller_and_have_less_weight():
    pool = make_token_pool(make_tokens(3, 3).positions, None, (1, 2, 2))
    assert pool.positions[0].tolist() == [[0, 0.5, 0.5], [0, 0.5, 2], [0, 2, 0.5], [0, 2, 2]]
    assert pool.bias.exp().flatten().tolist() == pytest.approx([4, 2, 2, 1])
    x = torch.arange(9.0).view(1, 9, 1)
    assert pool(x).flatten().tolist() == pytest.approx([2, 3.5, 6.5, 8])


def test_windows_begin_at_the_smallest_position():
    here, there = make_tokens(2, 4).positions, make_tokens(2, 4).positions + torch.tensor([0, 5, -3])
    assert torch.equal(
        make_token_pool(there, None, (1, 2, 2)).positions,
        make_token_pool(here, None, (1, 2, 2)).positions + torch.tensor([0, 5, -3]),
    )


@both
@torch.no_grad()
def test_windows_of_one_token_change_nothing(build):
    model, tokens = build(), make_tokens(2, 4, batch=2)
    plain = model(tokens, make_times(2), make_condition(2)).hidden_states
    assert torch.allclose(answer(model, tokens, make_condition(2), (1, 1, 1)), plain, atol=1e-5)


@both
@torch.no_grad()
def test_without_dropped_blocks_the_output_is_unchanged(build):
    model, tokens, window = build(), make_tokens(2, 4, batch=2), WINDOWS[build]
    plain = model(tokens, make_times(2), make_condition(2)).hidden_states
    assert torch.equal(answer(model, tokens, make_condition(2), window, (False, False)), plain)
    assert float((answer(model, tokens, make_condition(2), window, (True, False)) - plain).abs().max()) > 1e-3


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_a_padded_batch_equals_its_items(build, backend):
    model, window = build(attn_backend=backend), WINDOWS[build]
    items = [make_tokens(3, 4, seed=1), make_tokens(2, 2, seed=2), make_tokens(1, 5, seed=3)]
    tokens, condition = stack_tokens(items), make_condition(3)
    changed_tokens = tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], 1e3))
    together = tokens.with_values(answer(model, changed_tokens, condition, window)).items()
    for place, alone in enumerate(items):
        own = Condition(context=condition.context[place : place + 1], pooled=condition.pooled[place : place + 1])
        prepared = model.set_dropped_blocks(
            model.with_context_drop(model.precompute(alone, own), model.make_token_pool(alone, own, window)),
            (True, True),
        )
        expected = model(alone, make_times(3)[place : place + 1], own, precomputed=prepared).hidden_states
        assert torch.allclose(together[place].values, expected, atol=2e-5)


@both
@torch.no_grad()
def test_backends_agree_on_averaged_keys(build):
    tokens, condition = make_tokens(3, 5, batch=2), make_condition(2)  # uneven windows: keys are weighed
    fused, matmul = (
        answer(build(attn_backend=backend), tokens, condition, WINDOWS[build]) for backend in ("fused", "matmul")
    )
    assert torch.allclose(fused, matmul, atol=1e-5)


@torch.no_grad()
def test_a_common_shift_does_not_matter_and_keys_stand_at_window_centres():
    model, tokens = next_dit(), make_tokens(4, 4)
    moved = replace(tokens, positions=tokens.positions + torch.tensor([0, 7, -2]))
    all_masked = Condition(pooled=make_condition(1).pooled)  # text is not turned, so it hears of the places
    one, other = (answer(model, t, all_masked, (1, 2, 2)) for t in (tokens, moved))
    assert torch.allclose(one, other, atol=1e-5)
    pool = model.make_token_pool(tokens, make_condition(1), (1, 2, 2))
    assert pool.positions[0, 0].tolist() == [0, 0.5, 0.5]


@torch.no_grad()
def test_a_wrapped_projection_gives_the_same_output():
    model, tokens = next_dit(), make_tokens(2, 4)
    expected = answer(model, tokens, make_condition(1), (1, 2, 2))
    for block in model.blocks:
        block.attention.qkv = torch.nn.Sequential(block.attention.qkv)
    assert torch.allclose(answer(model, tokens, make_condition(1), (1, 2, 2)), expected, atol=1e-6)


@torch.no_grad()
def test_reference_tokens_are_not_averaged():
    model, tokens = next_dit(), make_tokens(2, 4)
    condition = replace(make_condition(1), reference=make_tokens(1, 3, seed=5))
    pool = model.make_token_pool(tokens, condition, (1, 2, 2))
    assert pool.positions.shape[1] == 2 + 3
    assert pool.bias.exp().flatten().tolist() == pytest.approx([4, 4, 1, 1, 1])
    assert bool(answer(model, tokens, condition, (1, 2, 2)).isfinite().all())


def test_proportional_attention_counts_windows():
    model = next_dit()
    tokens = stack_tokens([make_tokens(4, 4), make_tokens(2, 2)])
    scales = pooled_scale(model.make_token_pool(tokens, make_condition(2), (1, 2, 2)), 4, 8).flatten().tolist()
    assert scales == pytest.approx([8**-0.5, 0.0])
    assert pooled_scale(model.make_token_pool(make_tokens(4, 4), make_condition(1), (1, 2, 2)), 4, 8) == pytest.approx(
        8**-0.5
    )


@torch.no_grad()
def test_new_frequencies_apply_to_averaged_keys_too():
    model, tokens, condition = next_dit(), make_tokens(4, 4), make_condition(1)
    half = tuple(own / 2 for own in model.frequencies())
    pool = model.make_token_pool(tokens, condition, (1, 2, 2))
    at_once = model.with_context_drop(model.precompute(tokens, condition, half), pool, half)
    later = model.update_rope(
        model.with_context_drop(model.precompute(tokens, condition), pool), tokens, condition, half
    )
    one, other = (
        model(tokens, make_times(1), condition, precomputed=model.set_dropped_blocks(ready, (True, True))).hidden_states
        for ready in (at_once, later)
    )
    assert torch.equal(one, other)
