"""The built-in model of point clouds."""

from __future__ import annotations

import numpy as np
import pytest

from lumina_3d.families.measure import box
from lumina_core import Pipeline


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_pretrained("3d.points")


def test_clouds_have_the_proportions_that_prompts_name(pipe):
    prompts = ["a floor lamp", "a low round table", "a wide sofa with arms", "a tall vase"]
    clouds = pipe(prompts, count=256, seed=1).points
    lamp, table, sofa, vase = (box(cloud.astype(float)) for cloud in clouds)
    assert lamp[2] > 2.4 * lamp[:2].max()
    assert table[2] < 0.6 * table[:2].max()
    assert sofa[1] > 1.3 * sofa[0]
    assert vase[2] > 1.75 * vase[:2].max()


def test_class_names_of_other_languages_are_understood(pipe):
    plane, lamp = (box(cloud.astype(float)) for cloud in pipe(["飞机", "Lampe"], count=256, seed=2).points)
    assert plane[2] < 0.5 * plane[:2].max()
    assert lamp[2] > lamp[:2].max()


def test_points_beyond_the_trained_count_lie_near_those_within(pipe):
    cloud = pipe("a chair", count=1024, seed=3).points[0]
    anchors, others = cloud[:256], cloud[256:]
    nearest = np.linalg.norm(others[:, None] - anchors[None], axis=2).min(axis=1)
    assert np.quantile(nearest, 0.95) < 0.25
    assert np.isfinite(cloud).all() and np.abs(cloud).max() < 1.5
