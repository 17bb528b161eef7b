from __future__ import annotations

import pytest
import torch

from lumina_core.metrics.retrieval_precision_recall import (
    nearest_in_group,
    precision_recall,
    squared_distances,
    target_ranks,
)

LINE = torch.tensor([[0.0], [1.0], [2.0], [10.0]])


def test_distances_are_exact_far_from_the_origin():
    one, other = torch.rand(5, 7).double() + 1000, torch.rand(6, 7).double() + 1000
    wanted = (one[:, None] - other[None]).square().sum(-1)
    assert torch.allclose(squared_distances(one, other), wanted, atol=1e-9)


def test_a_rank_counts_the_real_rows_nearer_than_the_target():
    made = torch.tensor([[0.1], [1.9], [9.0]])
    assert target_ranks(made, torch.tensor([0, 0, 1]), LINE).tolist() == [0, 2, 2]


def test_a_duplicate_of_the_target_is_not_nearer():
    assert target_ranks(torch.tensor([[0.4]]), torch.tensor([1]), torch.tensor([[0.0], [0.0], [5.0]])).tolist() == [0]


def test_rows_beyond_a_chunk_are_ranked_like_the_first():
    made = torch.rand(1100, 3)
    assert target_ranks(made, torch.arange(1100), made).tolist() == [0] * 1100


def test_nearest_rows_inside_and_outside_a_group():
    belongs = torch.tensor([[True, True, False, False]])
    inside, outside = nearest_in_group(torch.tensor([[3.0]]), LINE, belongs)
    assert (inside.tolist(), outside.tolist()) == ([4.0], [1.0])


def test_a_group_of_all_rows_has_an_infinite_distance_outside():
    _, outside = nearest_in_group(torch.tensor([[3.0]]), LINE, torch.ones(1, 4, dtype=torch.bool))
    assert outside.tolist() == [torch.inf]


def test_the_same_set_is_precise_and_recalled_in_full():
    rows = torch.rand(50, 8)
    precise, recalled = precision_recall(rows, rows.flip(0))
    assert bool(precise.all()) and bool(recalled.all())


def test_sets_far_apart_have_neither_precision_nor_recall():
    rows = torch.rand(20, 4)
    precise, recalled = precision_recall(rows + 100, rows)
    assert not precise.any() and not recalled.any()


def test_one_mode_of_two_is_precise_and_half_recalled():
    mode = torch.arange(5.0)[:, None]
    real = torch.cat([mode, mode + 100])
    precise, recalled = precision_recall(mode + 0.1, real, k=1)
    assert (float(precise.float().mean()), float(recalled.float().mean())) == (1.0, 0.5)


def test_a_ball_reaches_to_the_kth_neighbour_and_no_farther():
    real = torch.tensor([[0.0], [1.0], [3.0]])  # balls of 1, 1 and 2 around them, with k = 1
    precise, _ = precision_recall(torch.tensor([[-1.0], [-1.1], [5.0], [5.1]]), real, k=1)
    assert precise.tolist() == [True, False, True, False]


def test_too_few_rows_for_a_kth_neighbour_are_refused():
    with pytest.raises(ValueError, match="got 3 and 9, expected more than k = 3"):
        precision_recall(torch.rand(3, 2), torch.rand(9, 2))
