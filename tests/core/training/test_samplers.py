"""The order of examples: a permutation for equal weights, shares by weight otherwise, and nothing else decides it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_core.training.dataloader import BucketSampler, EpochSampler


def epoch(order, size, number=0):
    return [draw.index for step in range(number * size, (number + 1) * size) for draw in order.step_keys(step, 1)]


@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 3))
def test_with_equal_weights_an_epoch_is_a_permutation(size, seed, number):
    assert sorted(epoch(EpochSampler([1.0] * size, seed), size, number)) == list(range(size))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=40), st.integers(0, 1000))
def test_an_example_occurs_by_its_weight_up_to_one(weights, seed):
    counts = Counter(epoch(EpochSampler(weights, seed), len(weights)))
    for place, weight in enumerate(weights):
        share = weight / sum(weights) * len(weights)
        assert share - 1.000001 < counts[place] < share + 1.000001


def test_over_many_epochs_frequencies_are_proportional_to_weights():
    weights = [1.0, 0.3, 2.2, 0.5]
    order = EpochSampler(weights, 5)
    counts = Counter(index for number in range(400) for index in epoch(order, 4, number))
    assert [counts[k] / 1600 for k in range(4)] == pytest.approx([w / 4 for w in weights], abs=0.02)


def test_epochs_are_shuffled_differently_and_repeat_for_the_same_seed():
    first, second = (epoch(EpochSampler([1.0] * 50, 1), 50, number) for number in (0, 1))
    assert first != second
    assert first == epoch(EpochSampler([1.0] * 50, 1), 50, 0)
    assert first != epoch(EpochSampler([1.0] * 50, 2), 50, 0)


def test_a_step_does_not_depend_on_earlier_calls():
    straight, jumped = EpochSampler([1.0] * 7, 3), EpochSampler([1.0] * 7, 3)
    steps = [straight.step_keys(step, 5) for step in range(9)]
    assert jumped.step_keys(8, 5) == steps[8]
    assert jumped.step_keys(1, 5) == steps[1]


def test_every_position_has_its_own_seed():
    draws = [draw for step in range(40) for draw in EpochSampler([1.0] * 7, 0).step_keys(step, 7)]
    assert len({draw.seed for draw in draws}) == len(draws)
    assert draws[0].python_rng().random() == draws[0].python_rng().random()
    assert draws[0].torch_generator().initial_seed() == draws[0].seed


# ---- batches of one size, and groups that are read together

SIZES = ((4, 8), (8, 4), (6, 6), (2, 16))


def grouped(size, seed, most=4, read_groups=()):
    """An order whose examples draw one of two extents each, by their index and their draw."""
    return BucketSampler(
        [1.0] * size, seed, read_groups, size_of=lambda index, draw: SIZES[(index + draw.randrange(2)) % most]
    )


def sizes_of(order, draws):
    return [order._size_of(draw.index, draw.python_rng()) for draw in draws]


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 99), st.integers(0, 2))
def test_batches_of_one_extent_lose_and_repeat_no_draw(size, batch, seed, window):
    order, plain, length = grouped(size, seed), EpochSampler([1.0] * size, seed), -(-size // batch)
    steps = range(window * length, (window + 1) * length)
    arranged = [order.step_keys(step, batch) for step in steps]
    assert {len(draws) for draws in arranged} == {batch}
    assert sorted((d.seed, d.index) for draws in arranged for d in draws) == sorted(
        (d.seed, d.index) for step in steps for d in plain.step_keys(step, batch)
    )


@given(st.integers(20, 80), st.integers(2, 6), st.integers(0, 99))
def test_at_most_one_batch_per_size_is_mixed(size, batch, seed):
    order = grouped(size, seed)
    steps = [set(sizes_of(order, order.step_keys(step, batch))) for step in range(-(-size // batch))]
    assert sum(len(found) > 1 for found in steps) < len(SIZES)


@given(st.integers(20, 80), st.sampled_from([2, 3, 4]), st.integers(1, 4), st.integers(0, 99))
def test_processes_that_share_a_batch_have_nearly_as_many_tokens(size, processes, share, seed):
    order, batch = grouped(size, seed), processes * share
    for step in range(-(-size // batch)):
        sizes = [math.prod(one) for one in sizes_of(order, order.step_keys(step, batch))]
        shares = [sum(sizes[rank::processes]) for rank in range(processes)]  # as the trainer deals them out
        assert max(shares) - min(shares) <= max(sizes) - min(sizes)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99), st.integers(0, 30))
def test_a_batch_of_one_size_does_not_depend_on_earlier_calls(size, batch, seed, step):
    straight = grouped(size, seed)
    for earlier in range(step):
        straight.step_keys(earlier, batch)
    assert grouped(size, seed).step_keys(step, batch) == straight.step_keys(step, batch)


@given(st.integers(1, 40), st.integers(0, 99), st.integers(0, 20))
def test_with_a_single_size_the_order_is_that_of_epochs(size, seed, step):
    assert grouped(size, seed, most=1).step_keys(step, 5) == EpochSampler([1.0] * size, seed).step_keys(step, 5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 99), st.integers(0, 2))
def test_with_read_groups_an_epoch_is_still_a_permutation(read_groups, seed, number):
    size = sum(read_groups)
    assert sorted(epoch(EpochSampler([1.0] * size, seed, read_groups), size, number)) == list(range(size))


def test_examples_of_a_group_are_read_near_each_other_in_another_order_each_epoch(monkeypatch):
    monkeypatch.setattr("lumina_core.training.dataloader.SHUFFLE_BUFFER", 20)
    order = EpochSampler([1.0] * 200, 1, [10] * 20)
    first, second = epoch(order, 200, 0), epoch(order, 200, 1)
    for begin in range(0, 200, 20):
        assert len({index // 10 for index in first[begin : begin + 20]}) == 2
    assert first != second and first[:20] != sorted(first[:20])


def test_an_empty_data_set_is_one_clear_line():
    with pytest.raises(ConfigError, match="dataset: got no examples"):
        EpochSampler([], 0)
