"""The published sizes and the draw among the best of them, told by what must hold of every list and every picture."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_image.datasets.buckets import best_sizes, bucket_sizes, kept_fraction, num_patches, sample_size

BUDGETS, PATCHES, RATIOS = st.integers(1, 1500), st.integers(1, 64), st.floats(1, 9)
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(BUDGETS, PATCHES, RATIOS)
def test_no_size_is_over_the_budget_or_the_ratio_and_none_comes_twice(patches, patch, ratio):
    sizes = bucket_sizes(patches, patch, ratio)
    assert len(set(sizes)) == len(sizes)
    for wide, high in sizes:
        assert wide % patch == 0 and high % patch == 0 and wide * high <= patches * patch**2
        assert max(wide, high) / min(wide, high) <= ratio


@given(BUDGETS, RATIOS)
def test_a_size_that_fills_its_column_is_in_the_list(patches, ratio):
    sizes = bucket_sizes(patches, 1, ratio)
    for wide in range(1, patches + 1):
        high = patches // wide
        assert ((wide, high) in sizes) == (max(wide, high) / min(wide, high) <= ratio)


@given(BUDGETS, RATIOS)
def test_a_list_goes_from_wide_to_high_one_patch_at_a_time(patches, ratio):
    sizes = bucket_sizes(patches, 1, ratio)
    for (wide, high), (next_wide, next_high) in pairwise(sizes):
        assert (next_wide - wide, next_high - high) in {(0, 1), (-1, 0)}


@pytest.mark.parametrize(("side", "count"), [(256, 49), (512, 97), (1024, 193)])
def test_the_published_sides_have_as_many_sizes_as_published(side, count):
    sizes = bucket_sizes(num_patches(side, 16), 16)
    assert len(sizes) == count and (side, side) in sizes


def test_a_budget_is_rounded_as_python_rounds():
    assert [num_patches(side, 16) for side in (256, 250, 24)] == [256, 244, 2]


@pytest.mark.parametrize("wrong", [(0, 16, 4.0), (4, 0, 4.0), (4, 16, 0.5), (4, 16, float("nan"))])
def test_a_list_that_cannot_be_says_what_was_wanted(wrong):
    with pytest.raises(ValueError, match="wanted patches >= 1"):
        bucket_sizes(*wrong)


@given(SIZES, SIZES)
def test_what_stays_is_the_area_of_the_largest_cut_of_that_shape(picture, size):
    (width, height), (wide, high) = picture, size
    scale = min(width / wide, height / high)
    assert kept_fraction(picture, size) == pytest.approx(wide * scale * high * scale / (width * height))


@given(SIZES, st.integers(1, 6), st.integers(0, 99))
def test_the_size_drawn_is_one_of_the_best_and_repeats_with_the_draw(picture, best, seed):
    sizes = bucket_sizes(64, 16)
    drawn = sample_size(picture, sizes, best, random.Random(seed))
    better = sum(kept_fraction(picture, other) > kept_fraction(picture, drawn) for other in sizes)
    assert drawn in best_sizes(picture, sizes, best) and better < best
    assert drawn == sample_size(picture, sizes, best, random.Random(seed))


def test_each_of_the_best_four_is_drawn():
    sizes = bucket_sizes(256, 16)
    drawn = {sample_size((640, 480), sizes, 4, random.Random(seed)) for seed in range(60)}
    assert drawn == set(best_sizes((640, 480), sizes, 4))
