"""Rotary position embedding: rotation of channel pairs by angles from coordinates."""

from __future__ import annotations

import pytest
import torch
from backbones import seeded_randn

from lumina_core.errors import ConfigError
from lumina_core.models.rope import apply_rotary_emb, check_axes_dim, frequencies, rope_from_positions

AXES = (4, 6, 6)


def turned(x: torch.Tensor, positions: torch.Tensor, layout: str = "blocks") -> torch.Tensor:
    axes = AXES if layout == "blocks" else (0, 8, 8)
    return apply_rotary_emb(x, rope_from_positions(positions, frequencies(axes), layout))


@pytest.mark.parametrize("layout", ["blocks", "interleaved"])
def test_scores_depend_on_position_differences_only(layout):
    q, k = seeded_randn((1, 1, 1, 16), 1), seeded_randn((1, 1, 1, 16), 2)
    here, there = torch.tensor([[[1.0, 5.0, 2.0]]]), torch.tensor([[[4.0, 3.0, 7.5]]])
    away = torch.tensor([100.0, -20.0, 33.0])
    near = (turned(q, here, layout) * turned(k, there, layout)).sum()
    far = (turned(q, here + away, layout) * turned(k, there + away, layout)).sum()
    assert torch.allclose(near, far, atol=1e-4)


def test_rotation_keeps_norms_and_is_the_identity_at_the_origin():
    x = seeded_randn((2, 3, 4, 16))
    assert torch.allclose(turned(x, seeded_randn((2, 3, 3)) * 50).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned(x, torch.zeros(2, 3, 3)), x)


def test_interleaved_pairs_take_row_and_column_in_turn_as_published():
    x, row, column = seeded_randn((1, 1, 1, 16)), 3.0, 5.0
    got = turned(x, torch.tensor([[[9.0, row, column]]]), "interleaved").flatten()
    pairs = x.double().flatten().unflatten(0, (8, 2))
    for pair in range(8):
        # Lumina-Next: pairs 2k and 2k + 1 share the frequency 10000 ** (-4k / head width)
        angle = (row if pair % 2 == 0 else column) * 10000 ** (-4 * (pair // 2) / 16)
        expected = complex(*pairs[pair].tolist()) * torch.polar(torch.tensor(1.0), torch.tensor(angle)).item()
        assert got[2 * pair : 2 * pair + 2].tolist() == pytest.approx([expected.real, expected.imag], abs=1e-6)


def test_in_layout_blocks_each_axis_rotates_its_own_channels():
    x = seeded_randn((1, 1, 1, 16))
    only_rows = turned(x, torch.tensor([[[0.0, 2.0, 0.0]]])).flatten()
    moved = (only_rows != x.flatten()).nonzero().flatten().tolist()
    assert moved == list(range(4, 10))


def test_three_equal_axes_have_the_frequencies_of_the_paper():
    expected = [10000 ** (-6 * k / 24) for k in range(4)]
    assert all(rates.tolist() == pytest.approx(expected) for rates in frequencies((8, 8, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_and_eager_rotation_are_bitwise_equal(dtype):
    x, positions = seeded_randn((2, 5, 3, 16)).to(dtype), seeded_randn((2, 5, 3)) * 9
    by = rope_from_positions(positions, frequencies(AXES), "blocks")
    eager, compiled = apply_rotary_emb(x, by), torch.compile(apply_rotary_emb, backend="eager")(x, by)
    assert eager.dtype == dtype
    assert torch.equal(eager, compiled)


def test_gradients_are_rotated_back():
    x = seeded_randn((1, 2, 1, 16)).requires_grad_()
    positions, ahead = seeded_randn((1, 2, 3)) * 9, seeded_randn((1, 2, 1, 16), 3)
    turned(x, positions).backward(ahead)
    assert torch.allclose(x.grad, turned(ahead, -positions), atol=1e-6)


def test_angles_are_exact_far_from_the_origin():
    place = 123457.0
    by = rope_from_positions(torch.tensor([[[0.0, place, 0.0]]]), frequencies((0, 8, 8)), "blocks")
    expected = torch.cos(torch.tensor(place, dtype=torch.float64) * frequencies((0, 8, 8))[1])
    assert torch.allclose(by.cos.flatten()[:4].double(), expected, atol=1e-7)


def test_items_with_the_same_positions_share_one_table():
    shared = seeded_randn((1, 5, 3)).expand(7, -1, -1)
    assert rope_from_positions(shared, frequencies(AXES), "blocks").cos.shape == (1, 5, 1, 8)
    assert rope_from_positions(shared.clone(), frequencies(AXES), "blocks").cos.shape == (7, 5, 1, 8)


@pytest.mark.parametrize(
    ("axes", "head", "layout"),
    [((4, 4, 4), 16, "blocks"), ((1, 7, 8), 16, "blocks"), ((-4, 12, 8), 16, "blocks"), ((4, 6, 6), 16, "interleaved")],
)
def test_axes_that_do_not_fill_a_head_evenly_are_an_error(axes, head, layout):
    with pytest.raises(ConfigError, match="axes"):
        check_axes_dim(axes, head, layout)
