"""The published bucket sizes and the best of them, checked by properties of every list and image."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_image.datasets.buckets import best_sizes, bucket_sizes, kept_fraction, num_patches

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
def test_bounds_of_the_list_are_checked(wrong):
    with pytest.raises(ValueError, match="expected 1 or more"):
        bucket_sizes(*wrong)


@given(SIZES, SIZES)
def test_kept_fraction_is_the_area_of_the_largest_crop(picture, size):
    (width, height), (wide, high) = picture, size
    scale = min(width / wide, height / high)
    assert kept_fraction(picture, size) == pytest.approx(wide * scale * high * scale / (width * height))


@given(SIZES, st.integers(1, 6))
def test_the_best_sizes_keep_most_of_the_image(image_size, top_k):
    sizes = bucket_sizes(64, 16)
    best = best_sizes(image_size, sizes, top_k)
    worst = min(kept_fraction(image_size, size) for size in best)
    assert len(set(best)) == top_k
    assert sum(kept_fraction(image_size, size) > worst for size in sizes) < top_k
