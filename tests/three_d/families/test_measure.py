"""Measuring functions: attributes of real draws are read back from points."""

from __future__ import annotations

import numpy as np
import pytest

from lumina_3d.families.measure import measure
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_core.errors import ConfigError


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", ["test", "held_out"])
def test_attributes_of_real_draws_are_read_right(family, split) -> None:
    right = []
    for index in range(40):
        shape = make_shape(family, index, split)
        points, _ = shape.mesh.sample(2048, np.random.default_rng((3, index)))
        found = measure(family, points)
        assert set(found) == set(shape.attributes)
        right += [found[name] == value for name, value in shape.attributes.items()]
    assert np.mean(right) >= 0.98


def test_scale_and_place_do_not_matter() -> None:
    points, _ = make_shape("car", 4).mesh.sample(2048, np.random.default_rng(0))
    assert measure("car", points) == measure("car", points * 7 + np.array([3.0, -2, 1]))


def test_a_cloud_without_shape_has_attributes_that_are_not_always_right() -> None:
    ball = np.random.default_rng(0).normal(size=(2048, 3))
    wrong = 0
    for family in FAMILIES:
        for index in range(5):
            shape = make_shape(family, index)
            wrong += any(measure(family, ball)[name] != value for name, value in shape.attributes.items())
    assert wrong > 25


def test_too_few_or_infinite_points_and_unknown_families_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 64"):
        measure("chair", np.zeros((5, 3)))
    with pytest.raises(ConfigError, match="not finite"):
        measure("chair", np.full((100, 3), np.nan))
    with pytest.raises(ConfigError, match="boat"):
        measure("boat", np.zeros((100, 3)))
