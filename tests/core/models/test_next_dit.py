"""Next-DiT: the output depends on positions and not on the order of the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import make_condition, make_times, make_tokens, next_dit, randomize

from lumina_core.errors import ConfigError
from lumina_core.models.layers import RMSNorm
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.models.rope import frequencies
from lumina_core.types import Condition, Tokens

WITHOUT_CONTEXT = Condition(pooled=make_condition(1).pooled)
ORDER = torch.randperm(12, generator=torch.Generator().manual_seed(3))


def shuffled(tokens: Tokens, positions: bool = True) -> Tokens:
    new_positions = tokens.positions[:, ORDER] if positions else tokens.positions
    return replace(tokens, values=tokens.values[:, ORDER], positions=new_positions)


@torch.no_grad()
def test_permuting_tokens_with_their_positions_permutes_the_output():
    model, tokens = next_dit(), make_tokens(3, 4)
    got = model(shuffled(tokens), make_times(1), make_condition(1)).hidden_states
    assert torch.allclose(got, model(tokens, make_times(1), make_condition(1)).hidden_states[:, ORDER], atol=1e-5)


@torch.no_grad()
def test_permuting_tokens_without_their_positions_changes_the_output():
    model, tokens = next_dit(), make_tokens(3, 4)
    got = model(shuffled(tokens, positions=False), make_times(1), make_condition(1)).hidden_states
    assert (got - model(tokens, make_times(1), make_condition(1)).hidden_states[:, ORDER]).abs().max() > 1e-2


@torch.no_grad()
def test_at_equal_positions_the_order_of_tokens_does_not_matter():
    model = next_dit()
    tokens = replace(make_tokens(3, 4), positions=torch.zeros(1, 12, 3))
    got = model(shuffled(tokens), make_times(1), make_condition(1)).hidden_states
    assert torch.allclose(got, model(tokens, make_times(1), make_condition(1)).hidden_states[:, ORDER], atol=1e-5)


@torch.no_grad()
def test_a_common_shift_does_not_matter_without_a_context():
    model, tokens = next_dit(), make_tokens(3, 4)
    away = replace(tokens, positions=tokens.positions + torch.tensor([0.0, 40.0, -7.0]))
    assert torch.allclose(
        model(away, make_times(1), WITHOUT_CONTEXT).hidden_states,
        model(tokens, make_times(1), WITHOUT_CONTEXT).hidden_states,
        atol=1e-5,
    )


@torch.no_grad()
def test_a_common_shift_matters_with_a_context_as_published():
    model, tokens = next_dit(), make_tokens(3, 4)
    away = replace(tokens, positions=tokens.positions + torch.tensor([0.0, 40.0, -7.0]))
    assert (
        model(away, make_times(1), make_condition(1)).hidden_states
        - model(tokens, make_times(1), make_condition(1)).hidden_states
    ).abs().max() > 1e-2


@pytest.mark.parametrize(("axis", "has_effect"), [(0, False), (1, True), (2, True)])
@torch.no_grad()
def test_an_axis_without_channels_has_no_effect(axis, has_effect):
    model, tokens = next_dit(), make_tokens(3, 4)
    positions = tokens.positions.clone()
    positions[:, ::2, axis] += 5
    moved = model(replace(tokens, positions=positions), make_times(1), WITHOUT_CONTEXT).hidden_states
    assert ((moved - model(tokens, make_times(1), WITHOUT_CONTEXT).hidden_states).abs().max() > 1e-3) == has_effect


@torch.no_grad()
def test_every_axis_with_channels_has_an_effect():
    model, tokens = next_dit(rope_axes_dim=(4, 2, 2), rope_layout="blocks"), make_tokens(3, 4)
    base = model(tokens, make_times(1), WITHOUT_CONTEXT).hidden_states
    for axis in range(3):
        positions = tokens.positions.clone()
        positions[:, ::2, axis] += 5
        moved = model(replace(tokens, positions=positions), make_times(1), WITHOUT_CONTEXT).hidden_states
        assert (moved - base).abs().max() > 1e-3


@torch.no_grad()
def test_half_the_frequencies_equal_half_the_positions():
    model, tokens = next_dit(), make_tokens(3, 4)
    halved = [rates / 2 for rates in frequencies((0, 4, 4))]
    got = model(
        tokens, make_times(1), make_condition(1), precomputed=model.precompute(tokens, make_condition(1), halved)
    ).hidden_states
    near = replace(tokens, positions=tokens.positions / 2)
    assert torch.allclose(got, model(near, make_times(1), make_condition(1)).hidden_states, atol=1e-5)


@torch.no_grad()
def test_the_norm_after_a_branch_removes_its_scale():
    model, tokens = next_dit(), make_tokens(3, 4)
    before = model(tokens, make_times(1), make_condition(1)).hidden_states
    for block in model.blocks:
        block.feed_forward.out.weight.mul_(1000)
        block.attention.out.weight.mul_(1000)
    assert torch.allclose(model(tokens, make_times(1), make_condition(1)).hidden_states, before, atol=1e-3)


def test_the_modulation_has_at_most_1024_channels():
    with torch.device("meta"):
        widths = [next_dit_of(width).modulation_dim for width in (512, 1024, 2304)]
    assert widths == [512, 1024, 1024]


def next_dit_of(width: int) -> NextDiTBackbone:
    return NextDiTBackbone(
        NextDiTBackbone.Config(
            hidden_size=width, num_layers=1, num_heads=width // 64, rope_axes_dim=(0, 32, 32), token_dim=16
        )
    )


def test_norms_before_the_branches_may_have_no_weights():
    names = {name for name, _ in next_dit(weighted_pre_norm=False).named_parameters()}
    assert not any("_norm1." in name for name in names)
    assert any("_norm2." in name for name in names)


@pytest.mark.parametrize(
    "options", [{"rope_axes_dim": (2, 4, 4)}, {"rope_axes_dim": (4, 2, 2)}, {"rope_axes_dim": (0, 3, 5)}]
)
def test_axes_that_do_not_fill_a_head_are_an_error(options):
    with pytest.raises(ConfigError, match="axes"):
        next_dit(**options)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_divides_by_the_root_of_the_mean_square(weighted, dtype):
    norm = randomize(RMSNorm(48, 1e-5, weighted))
    x, by = (torch.randn(2, 5, 48) * 30).to(dtype), torch.randn(2, 1, 48).to(dtype)
    rate = (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    expected = x.double() * rate * (norm.weight.double() if weighted else 1.0) * by.double()
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(norm(x, by).double(), expected, atol=tolerance)
    with torch.no_grad():
        assert torch.allclose(norm(x, by).double(), expected, atol=tolerance)
        assert torch.allclose(norm(x).double() * by.double(), expected, atol=tolerance)
