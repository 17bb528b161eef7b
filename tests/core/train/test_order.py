"""The order of examples: a permutation for equal weights, shares by weight otherwise, and nothing else decides it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_core.train.order import Order, Reader


def epoch(order, size, number=0):
    return [draw.index for step in range(number * size, (number + 1) * size) for draw in order.step(step, 1)]


@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 3))
def test_with_equal_weights_an_epoch_is_a_permutation(size, seed, number):
    assert sorted(epoch(Order([1.0] * size, seed), size, number)) == list(range(size))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=40), st.integers(0, 1000))
def test_an_example_comes_as_often_as_its_weight_says_up_to_one(weights, seed):
    counts = Counter(epoch(Order(weights, seed), len(weights)))
    for place, weight in enumerate(weights):
        share = weight / sum(weights) * len(weights)
        assert share - 1.000001 < counts[place] < share + 1.000001


def test_over_many_epochs_the_shares_are_those_of_the_weights():
    weights = [1.0, 0.3, 2.2, 0.5]
    order = Order(weights, 5)
    counts = Counter(index for number in range(400) for index in epoch(order, 4, number))
    assert [counts[k] / 1600 for k in range(4)] == pytest.approx([w / 4 for w in weights], abs=0.02)


def test_epochs_are_shuffled_differently_and_repeat_for_the_same_seed():
    first, second = (epoch(Order([1.0] * 50, 1), 50, number) for number in (0, 1))
    assert first != second
    assert first == epoch(Order([1.0] * 50, 1), 50, 0)
    assert first != epoch(Order([1.0] * 50, 2), 50, 0)


def test_a_step_can_be_had_without_those_before_it():
    straight, jumped = Order([1.0] * 7, 3), Order([1.0] * 7, 3)
    steps = [straight.step(step, 5) for step in range(9)]
    assert jumped.step(8, 5) == steps[8]
    assert jumped.step(1, 5) == steps[1]


@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 20))
def test_processes_share_a_step_without_loss_or_overlap(world, step):
    order = Order([1.0] * 11, 0)
    shares = [order.share(step, 12, rank, world) for rank in range(world)]
    assert {len(share) for share in shares} == {12 // world}
    assert sorted(d.seed for share in shares for d in share) == sorted(d.seed for d in order.step(step, 12))


def test_every_place_has_a_seed_of_its_own():
    draws = [draw for step in range(40) for draw in Order([1.0] * 7, 0).step(step, 7)]
    assert len({draw.seed for draw in draws}) == len(draws)
    assert draws[0].python().random() == draws[0].python().random()
    assert draws[0].torch().initial_seed() == draws[0].seed


def test_a_reader_gives_the_steps_that_are_left():
    read = list(Reader(Order([1.0] * 5, 0), 2, 6, 4, (1, 2)))
    assert read == [Order([1.0] * 5, 0).share(step, 4, 1, 2) for step in (2, 3, 4, 5)]
