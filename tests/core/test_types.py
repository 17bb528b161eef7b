"""Tokens are stacked and taken apart without losing or inventing a number; a mask exists only where it must."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lumina_core.errors import ShapeError
from lumina_core.types import Tokens, check_shape, stack_tokens


def tokens(length: int, batch: int = 1, seed: int = 0) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    values, positions = (torch.randn(batch, length, n, generator=draw) for n in (2, 3))
    return Tokens(values, positions, ((length,),) * batch)


def test_items_of_one_length_are_stacked_without_a_mask():
    assert stack_tokens([tokens(4), tokens(4, 2)]).mask is None


def test_items_of_several_lengths_are_padded_with_zeros_under_a_mask_and_come_back_exactly():
    items = [tokens(length, seed=length) for length in (3, 5, 1)]
    stacked = stack_tokens(items)
    assert stacked.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5, [True] + [False] * 4]
    assert not stacked.values[~stacked.mask].any()
    assert stacked.sizes == ((3,), (5,), (1,))
    for before, after in zip(items, stacked.items(), strict=True):
        assert torch.equal(before.values, after.values) and torch.equal(before.positions, after.positions)
        assert after.mask is None


def test_stacking_padded_tokens_keeps_their_mask():
    padded = stack_tokens([tokens(2), tokens(4)])
    both = stack_tokens([padded, tokens(4)])
    assert both.mask.sum(1).tolist() == [2, 4, 4]


def test_with_values_keeps_positions():
    first = tokens(3)
    other = first.with_values(torch.zeros(1, 3, 7))
    assert other.positions is first.positions and other.values.shape == (1, 3, 7)


def test_tokens_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens(2).values = torch.zeros(1)


def test_a_wrong_shape_names_the_actual_and_the_expected_shape():
    check_shape(torch.zeros(2, 3), (None, 3), "it")
    with pytest.raises(ShapeError, match=r"it: got the shape \(2, 3\), expected \(any, 4\)"):
        check_shape(torch.zeros(2, 3), (None, 4), "it")
    with pytest.raises(ShapeError):
        check_shape(torch.zeros(2, 3), (None, 3, None), "it")
