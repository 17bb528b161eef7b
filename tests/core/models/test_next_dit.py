"""Next-DiT: tokens know where they are by their positions alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import next_dit, picture, said, times, wake

from lumina_core.errors import ConfigError
from lumina_core.models.layers import RMSNorm
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.models.rope import frequencies
from lumina_core.types import Condition, Tokens

SILENT = Condition(pooled=said(1).pooled)
ORDER = torch.randperm(12, generator=torch.Generator().manual_seed(3))


def shuffled(tokens: Tokens, positions: bool = True) -> Tokens:
    places = tokens.positions[:, ORDER] if positions else tokens.positions
    return replace(tokens, values=tokens.values[:, ORDER], positions=places)


@torch.no_grad()
def test_tokens_moved_with_their_positions_give_the_answer_moved():
    model, tokens = next_dit(), picture(3, 4)
    got = model(shuffled(tokens), times(1), said(1)).hidden_states
    assert torch.allclose(got, model(tokens, times(1), said(1)).hidden_states[:, ORDER], atol=1e-5)


@torch.no_grad()
def test_tokens_moved_without_their_positions_give_another_answer():
    model, tokens = next_dit(), picture(3, 4)
    got = model(shuffled(tokens, positions=False), times(1), said(1)).hidden_states
    assert (got - model(tokens, times(1), said(1)).hidden_states[:, ORDER]).abs().max() > 1e-2


@torch.no_grad()
def test_at_one_place_nobody_knows_the_order():
    model = next_dit()
    tokens = replace(picture(3, 4), positions=torch.zeros(1, 12, 3))
    got = model(shuffled(tokens), times(1), said(1)).hidden_states
    assert torch.allclose(got, model(tokens, times(1), said(1)).hidden_states[:, ORDER], atol=1e-5)


@torch.no_grad()
def test_where_the_whole_picture_stands_does_not_matter_without_a_memory():
    model, tokens = next_dit(), picture(3, 4)
    away = replace(tokens, positions=tokens.positions + torch.tensor([0.0, 40.0, -7.0]))
    assert torch.allclose(
        model(away, times(1), SILENT).hidden_states, model(tokens, times(1), SILENT).hidden_states, atol=1e-5
    )


@torch.no_grad()
def test_where_the_whole_picture_stands_matters_with_a_memory_as_published():
    model, tokens = next_dit(), picture(3, 4)
    away = replace(tokens, positions=tokens.positions + torch.tensor([0.0, 40.0, -7.0]))
    assert (
        model(away, times(1), said(1)).hidden_states - model(tokens, times(1), said(1)).hidden_states
    ).abs().max() > 1e-2


@pytest.mark.parametrize(("axis", "seen"), [(0, False), (1, True), (2, True)])
@torch.no_grad()
def test_an_axis_without_channels_is_not_seen(axis, seen):
    model, tokens = next_dit(), picture(3, 4)
    positions = tokens.positions.clone()
    positions[:, ::2, axis] += 5
    moved = model(replace(tokens, positions=positions), times(1), SILENT).hidden_states
    assert ((moved - model(tokens, times(1), SILENT).hidden_states).abs().max() > 1e-3) == seen


@torch.no_grad()
def test_three_axes_are_seen_where_each_has_channels():
    model, tokens = next_dit(rope_axes_dim=(4, 2, 2), rope_layout="blocks"), picture(3, 4)
    base = model(tokens, times(1), SILENT).hidden_states
    for axis in range(3):
        positions = tokens.positions.clone()
        positions[:, ::2, axis] += 5
        moved = model(replace(tokens, positions=positions), times(1), SILENT).hidden_states
        assert (moved - base).abs().max() > 1e-3


@torch.no_grad()
def test_halved_frequencies_are_halved_positions():
    model, tokens = next_dit(), picture(3, 4)
    halved = [rates / 2 for rates in frequencies((0, 4, 4))]
    got = model(tokens, times(1), said(1), precomputed=model.precompute(tokens, said(1), halved)).hidden_states
    near = replace(tokens, positions=tokens.positions / 2)
    assert torch.allclose(got, model(near, times(1), said(1)).hidden_states, atol=1e-5)


@torch.no_grad()
def test_the_norm_behind_a_branch_makes_its_size_unimportant():
    model, tokens = next_dit(), picture(3, 4)
    before = model(tokens, times(1), said(1)).hidden_states
    for block in model.blocks:
        block.feed_forward.out.weight.mul_(1000)
        block.attention.out.weight.mul_(1000)
    assert torch.allclose(model(tokens, times(1), said(1)).hidden_states, before, atol=1e-3)


def test_the_modulation_is_never_wider_than_1024():
    with torch.device("meta"):
        widths = [next_dit_of(width).modulation_dim for width in (512, 1024, 2304)]
    assert widths == [512, 1024, 1024]


def next_dit_of(width: int) -> NextDiTBackbone:
    return NextDiTBackbone(
        NextDiTBackbone.Config(
            hidden_size=width, num_layers=1, num_heads=width // 64, rope_axes_dim=(0, 32, 32), token_dim=16
        )
    )


def test_norms_before_the_branches_can_be_without_weights():
    names = {name for name, _ in next_dit(weighted_pre_norm=False).named_parameters()}
    assert not any("_norm1." in name for name in names)
    assert any("_norm2." in name for name in names)


@pytest.mark.parametrize(
    "options", [{"rope_axes_dim": (2, 4, 4)}, {"rope_axes_dim": (4, 2, 2)}, {"rope_axes_dim": (0, 3, 5)}]
)
def test_axes_that_do_not_fill_a_head_are_refused(options):
    with pytest.raises(ConfigError, match="axes"):
        next_dit(**options)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_divides_by_the_root_of_the_mean_square(weighted, dtype):
    norm = wake(RMSNorm(48, 1e-5, weighted))
    x, by = (torch.randn(2, 5, 48) * 30).to(dtype), torch.randn(2, 1, 48).to(dtype)
    rate = (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    wanted = x.double() * rate * (norm.weight.double() if weighted else 1.0) * by.double()
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(norm(x, by).double(), wanted, atol=tolerance)
    with torch.no_grad():
        assert torch.allclose(norm(x, by).double(), wanted, atol=tolerance)
        assert torch.allclose(norm(x).double() * by.double(), wanted, atol=tolerance)
