"""Conditions are joined item by item, with a mask only if lengths differ."""

from __future__ import annotations

import pytest
import torch
from backbones import seeded_randn

from lumina_core.conditioning.ops import choose, combine_regions, condition_to, join, mean_pool, repeat, select, stack
from lumina_core.errors import ShapeError
from lumina_core.types import Condition, Tokens


def memory(batch: int, length: int, start: float = 0.0, width: int = 2) -> torch.Tensor:
    return torch.arange(batch * length * width, dtype=torch.float32).reshape(batch, length, width) + start


def context(batch: int) -> Tokens:
    return Tokens(memory(batch, 3), torch.zeros(batch, 3, 3), ((3,),) * batch)


def test_join_concatenates_contexts_and_pooled_conditions():
    joined = join(
        [
            Condition(memory(2, 3), pooled=memory(2, 1)[:, 0]),
            Condition(memory(2, 1, 50.0)),
            Condition(pooled=memory(2, 2)[:, 1]),
        ]
    )
    assert torch.equal(joined.context, torch.cat([memory(2, 3), memory(2, 1, 50.0)], 1))
    assert joined.context_mask is None and joined.pooled.shape == (2, 4)


def test_joining_with_a_mask_makes_masks_for_all():
    mask = torch.tensor([[True, False]])
    joined = join([Condition(memory(1, 2), mask), Condition(memory(1, 3))])
    assert joined.context_mask.tolist() == [[True, False, True, True, True]]


def test_conditions_that_cannot_be_joined_are_an_error():
    with pytest.raises(ShapeError, match=r"widths \[2, 3\]"):
        join([Condition(memory(1, 2)), Condition(memory(1, 2, width=3))])
    with pytest.raises(ShapeError, match="got 2 with reference tokens"):
        join([Condition(reference=context(1)), Condition(reference=context(1))])


def test_stacked_contexts_are_masked_only_if_lengths_differ():
    assert stack([Condition(memory(1, 3)), Condition(memory(2, 3))]).context_mask is None
    both = stack([Condition(memory(1, 1)), Condition(memory(2, 3))])
    assert both.context.shape == (3, 3, 2) and not both.context[0, 1:].any()
    assert both.context_mask.tolist() == [[True, False, False], [True] * 3, [True] * 3]


def test_conditions_of_a_batch_have_the_same_fields():
    with pytest.raises(ShapeError, match="all or none"):
        stack([Condition(memory(1, 1)), Condition(pooled=torch.zeros(1, 2))])


def test_items_are_chosen_and_selected_row_by_row_in_every_field():
    one = Condition(memory(2, 2), pooled=torch.ones(2, 1), reference=context(2))
    other = Condition(memory(2, 2, 100.0), pooled=torch.zeros(2, 1), reference=context(2))
    mixed = choose(torch.tensor([True, False]), one, other)
    assert mixed.context[:, 0, 0].tolist() == [0.0, 104.0] and mixed.pooled[:, 0].tolist() == [1.0, 0.0]
    turned = select(mixed, torch.tensor([1, 0, 1]))
    assert turned.context[:, 0, 0].tolist() == [104.0, 0.0, 104.0]
    assert turned.reference.values.shape[0] == 3 and len(turned.reference.sizes) == 3


def test_mean_pool_is_the_mean_of_real_entries():
    rows = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_pool(rows[:, :2], None).item() == 2.0
    assert mean_pool(rows, torch.tensor([[True, True, False]])).item() == 2.0


def regional(regions, tokens, seed=0, entries=3):
    conditions = [Condition(context=seeded_randn((1, entries, 4), seed + k)) for k in range(regions)]
    shares = torch.zeros(regions, tokens)
    shares[torch.arange(tokens) % regions, torch.arange(tokens)] = 1
    return conditions, combine_regions(conditions, shares)


def test_missing_regions_of_a_batch_are_empty():
    _, three = regional(3, 6)
    plain = Condition(context=seeded_randn((1, 5, 4), 9))
    both = stack([three, plain])
    assert (
        both.context.shape == (2, 15, 4)
        and both.context_mask.shape == (2, 15)
        and both.region_weights.shape == (2, 3, 6)
    )
    assert both.region_weights[1].tolist() == [[1] * 6, [0] * 6, [0] * 6]
    assert torch.equal(both.context[1, :5], plain.context[0])
    assert (
        both.context_mask[0].tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False] * 2 + [True] * 3 + [False] * 2
    )
    back = select(both, torch.tensor([1]))
    assert back.region_weights.shape == (1, 3, 6)


def test_regions_that_do_not_fit_are_an_error():
    conditions, three = regional(3, 6)
    with pytest.raises(ShapeError, match="got 2 regions, expected 3"):
        combine_regions(conditions, torch.ones(2, 6))
    with pytest.raises(ShapeError, match="a condition without context"):
        combine_regions([Condition()], torch.ones(1, 6))
    with pytest.raises(ShapeError, match="got 5 and 6 tokens"):
        stack([three, regional(2, 5)[1]])
    with pytest.raises(ShapeError, match="a single context"):
        join([three, conditions[0]])


def every_field(batch, seed=0):
    return Condition(
        context=seeded_randn((batch, 3, 2), seed), context_mask=torch.ones(batch, 3, dtype=torch.bool),
        pooled=seeded_randn((batch, 4), seed + 1),
        reference=Tokens(seeded_randn((batch, 2, 6), seed), seeded_randn((batch, 2, 3)), ((2,),) * batch),
        region_weights=seeded_randn((batch, 1, 5), seed + 2), token_condition=seeded_randn((batch, 5, 3), seed + 3),
    )  # fmt: skip


def tensors(condition):
    fields = {**vars(condition), **{f"reference.{k}": v for k, v in vars(condition.reference).items()}}
    return {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}


def test_selecting_stacking_repeating_and_moving_reach_every_field():
    condition = every_field(3)
    full, order = tensors(condition), torch.tensor([2, 0])
    assert len(full) == 7
    for name, value in tensors(select(condition, order)).items():
        assert torch.equal(value, full[name][order]), name
    for name, value in tensors(stack([select(condition, torch.tensor([k])) for k in range(3)])).items():
        assert torch.equal(value, full[name]), name
    for name, value in tensors(repeat(condition, 2)).items():
        assert torch.equal(value, full[name][[0, 0, 1, 1, 2, 2]]), name
    for name, value in tensors(condition_to(condition, torch.device("cpu"), torch.float64)).items():
        expected_dtypes = {"context_mask": torch.bool, "reference.positions": torch.float32}
        assert value.dtype == expected_dtypes.get(name, torch.float64), name
        assert torch.equal(value, full[name].to(value.dtype)), name


def test_token_conditions_of_two_conditioners_are_joined_along_their_width():
    first, second = seeded_randn((2, 5, 3), 1), seeded_randn((2, 5, 1), 2)
    both = join([Condition(token_condition=first), Condition(token_condition=second)])
    assert torch.equal(both.token_condition, torch.cat([first, second], dim=-1))


def test_items_without_a_token_condition_get_zeros_and_without_a_reference_a_masked_one():
    plain = Condition(pooled=seeded_randn((2, 4)))
    both = stack(
        [Condition(pooled=seeded_randn((1, 4)), token_condition=seeded_randn((1, 5, 3)), reference=context(1)), plain]
    )
    assert both.token_condition.shape == (3, 5, 3) and not both.token_condition[1:].any()
    assert both.reference.mask.tolist() == [[True] * 3, [False] * 3, [False] * 3]
    dropped = choose(torch.tensor([False]), select(both, torch.tensor([0])), Condition(pooled=seeded_randn((1, 4), 3)))
    assert not dropped.token_condition.any() and not dropped.reference.mask.any()
    shorter = stack(
        [Condition(token_condition=seeded_randn((1, 2, 3))), Condition(token_condition=seeded_randn((1, 5, 3)))]
    )
    assert not shorter.token_condition[0, 2:].any()
