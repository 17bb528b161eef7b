"""Flag-DiT, the baseline: one axis, shifts, unbounded gates, no norm after a branch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import flag_dit, make_condition, make_times, make_tokens, randomize, seeded_randn

from lumina_core.errors import ConfigError
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.heads import VelocityHead
from lumina_core.types import Condition, Tokens

WITHOUT_CONTEXT = Condition(pooled=make_condition(1).pooled)


def sound(frames: int, pitch: float = 1.0) -> Tokens:
    """Random tokens at (time, 0, 0)."""
    positions = torch.zeros(1, frames, 3)
    positions[..., 0] = pitch * torch.arange(frames)
    return Tokens(seeded_randn((1, frames, 6)), positions, ((frames,),))


@torch.no_grad()
def test_tokens_of_a_grid_are_numbered_row_by_row():
    model = flag_dit()
    tall = make_tokens(4, 3)
    flat = replace(tall, positions=make_tokens(1, 12).positions)
    assert torch.equal(
        model(tall, make_times(1), make_condition(1)).hidden_states,
        model(flat, make_times(1), make_condition(1)).hidden_states,
    )


@torch.no_grad()
def test_the_order_of_the_tokens_matters():
    model, tokens = flag_dit(), make_tokens(3, 4)
    turned = tokens.with_values(tokens.values.flip(1))
    got = model(turned, make_times(1), WITHOUT_CONTEXT).hidden_states.flip(1)
    assert (got - model(tokens, make_times(1), WITHOUT_CONTEXT).hidden_states).abs().max() > 1e-2


@torch.no_grad()
def test_positions_can_be_the_time_of_a_token():
    by_number, by_time = flag_dit(), flag_dit(position_ids="time")
    assert torch.equal(
        by_number(sound(7), make_times(1), make_condition(1)).hidden_states,
        by_time(sound(7), make_times(1), make_condition(1)).hidden_states,
    )
    # half the spacing matters only if positions are used
    slow = by_time(sound(7, 0.5), make_times(1), make_condition(1)).hidden_states
    assert torch.equal(
        by_number(sound(7, 0.5), make_times(1), make_condition(1)).hidden_states,
        by_number(sound(7), make_times(1), make_condition(1)).hidden_states,
    )
    assert (slow - by_time(sound(7), make_times(1), make_condition(1)).hidden_states).abs().max() > 1e-3


@torch.no_grad()
def test_permuting_tokens_with_their_times_permutes_the_output():
    model, tokens = flag_dit(position_ids="time"), sound(7)
    moved = replace(tokens, values=tokens.values.flip(1), positions=tokens.positions.flip(1))
    got = model(moved, make_times(1), make_condition(1)).hidden_states
    assert torch.allclose(got.flip(1), model(tokens, make_times(1), make_condition(1)).hidden_states, atol=1e-5)


@torch.no_grad()
def test_a_gate_has_no_bound():
    block = flag_dit(num_layers=1, cross_attention_dim=0).blocks[0]
    width, x, by = 32, seeded_randn((1, 4, 32)), flag_dit().precompute(sound(4), WITHOUT_CONTEXT).encoding[0]
    block.modulation.weight.zero_()
    change = {}
    for gate in (1.0, 50.0):
        block.modulation.bias.zero_()
        block.modulation.bias[5 * width :] = gate  # the last sixth: the gate of the feed-forward; the other one is shut
        change[gate] = block(x, torch.zeros(1, 32), by) - x
    assert torch.allclose(change[50.0], 50 * change[1.0], atol=1e-3)


@pytest.mark.parametrize("branch", ["attention", "feed"])
@torch.no_grad()
def test_a_shift_is_added_after_the_scale(branch):
    block = flag_dit(num_layers=1, cross_attention_dim=0).blocks[0]
    x, by = seeded_randn((1, 4, 32)), flag_dit().precompute(sound(4), WITHOUT_CONTEXT).encoding[0]
    block.modulation.weight.zero_()
    block.modulation.bias.zero_()
    first = 0 if branch == "attention" else 3  # shift, scale and gate of attention, then those of the feed-forward
    for place, value in enumerate((0.7, -1.0, 1.0)):
        block.modulation.bias[32 * (first + place) : 32 * (first + place + 1)] = value
    # a scale of -1 wipes out the token: what is left is the shift
    left = torch.full((1, 4, 32), 0.7)
    expected = x + (block.attention(left, by, None, None) if branch == "attention" else block.feed_forward(left))
    assert torch.allclose(block(x, torch.zeros(1, 32), by), expected, atol=1e-5)


def test_the_modulation_is_as_wide_as_the_tokens():
    with torch.device("meta"):
        model = FlagDiTBackbone(FlagDiTBackbone.Config(hidden_size=2048, num_layers=1, num_heads=32, token_dim=16))
    assert model.modulation_dim == 2048
    assert model.blocks[0].modulation.weight.shape == (6 * 2048, 2048)


def test_with_its_head_it_learns():
    model = flag_dit()
    head = VelocityHead(VelocityHead.Config(shift=True, hidden_size=32, token_dim=6, modulation_dim=32))
    randomize(head)
    tokens = make_tokens(3, 3)
    head(model(tokens, make_times(1), make_condition(1)), tokens).square().mean().backward()
    parameters = [*model.named_parameters(), *head.named_parameters()]
    # a constant shift of all memory keys cancels in the softmax
    all_masked = {name for name, p in parameters if not p.grad.abs().max() > 1e-9}
    assert all(name.endswith("context_k_norm.bias") for name in all_masked)


def test_a_head_of_odd_width_is_an_error():
    with pytest.raises(ConfigError, match="three even numbers whose sum is the head dimension 9"):
        flag_dit(hidden_size=36, num_heads=4, num_kv_heads=4)
