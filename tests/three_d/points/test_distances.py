"""Distances and scores of sets of clouds, against values by hand and against PointFlow's published functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lumina_3d.families.shapes import make_shape
from lumina_3d.points import distances as d
from lumina_core.errors import ShapeError


def chairs(split: str, seed: int, count: int = 6) -> list[np.ndarray]:
    return [
        make_shape("chair", index, split).mesh.sample(128, np.random.default_rng((seed, index)))[0]
        for index in range(count)
    ]


def test_chamfer_is_the_sum_of_mean_squared_nearest_distances() -> None:
    first = np.array([[0.0, 0, 0], [3, 0, 0]])
    second = np.array([[1.0, 0, 0]])
    assert d.chamfer_distance(first, second) == pytest.approx((1 + 4) / 2 + 1)


def test_earth_movers_distance_is_the_best_of_all_assignments() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    best = min(np.linalg.norm(first - second[list(order)], axis=1).mean() for order in itertools.permutations(range(5)))
    assert d.earth_movers_distance(first, second) == pytest.approx(best)
    with pytest.raises(ShapeError, match="equally many"):
        d.earth_movers_distance(first, second[:4])


def test_mmd_averages_over_references_and_coverage_counts_references() -> None:
    # rows are generated, columns are real
    table = np.array([[1.0, 5, 9], [2, 5, 9], [3, 4, 9]])
    assert d.mmd(table) == pytest.approx((1 + 4 + 9) / 3)
    assert d.coverage(table) == pytest.approx(1 / 3)
    # the transposed table gives other values: rows and columns are not exchanged
    assert d.mmd(table.T) == pytest.approx((1 + 2 + 3) / 3)
    assert d.coverage(table.T) == pytest.approx(2 / 3)


def test_sets_of_unequal_size_are_refused() -> None:
    table = np.ones((2, 3))
    for score in (d.mmd, d.coverage):
        with pytest.raises(ShapeError, match="equally many"):
            score(table)
    with pytest.raises(ShapeError, match="equally many"):
        d.nearest_neighbor_accuracy(np.ones((2, 2)), table, np.ones((3, 3)))
    with pytest.raises(ShapeError, match="equal shapes"):
        d.nearest_neighbor_accuracy(np.ones((2, 2)), np.ones((3, 3)), np.ones((3, 3)))


def test_nearest_neighbor_accuracy_of_separated_mixed_and_equal_sets() -> None:
    def accuracy(generated, real) -> float:
        tables = [np.abs(np.subtract.outer(a, b)) for a, b in ((generated, generated), (generated, real), (real, real))]
        return d.nearest_neighbor_accuracy(*tables)

    assert accuracy([0.0, 1, 2], [10.0, 11, 12]) == 1
    assert accuracy([0.0, 10], [0.1, 10.1]) == 0
    assert accuracy([0.0, 1, 20.0], [5.0, 21.5, 22]) == pytest.approx(4 / 6)


def test_scores_equal_those_of_the_published_functions_of_pointflow() -> None:
    # distChamfer, lgan_mmd_cov, knn and jsd_between_point_cloud_sets of PointFlow's metrics/evaluation_metrics.py
    # (commit 4e6795a), run on these clouds with torch 2.14
    generated, real = chairs("train", 1), chairs("test", 2)
    table = d.chamfer_table(generated, real)
    assert d.mmd(table) == pytest.approx(0.02637358694342609, rel=1e-9)
    assert table.min(axis=1).mean() == pytest.approx(0.014328361692839334, rel=1e-9)
    assert d.coverage(table) == 0.5
    within = d.chamfer_table(generated, generated), d.chamfer_table(real, real)
    assert d.nearest_neighbor_accuracy(within[0], table, within[1]) == pytest.approx(0.4166666567)
    assert d.jensen_shannon(generated, real) == pytest.approx(0.8269438801533866, rel=1e-9)


def test_emd_table_draws_points_by_a_seed() -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(600, 3)) for _ in range(2)]
    table = d.emd_table(clouds, clouds)
    assert table.shape == (2, 2)
    assert np.array_equal(table, d.emd_table(clouds, clouds))
    assert table[0, 0] < 1e-12 < table[0, 1]
    assert len(d.subsample(clouds[0])) == d.EMD_POINTS


def test_density_of_points_drawn_by_area_has_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    counts, nearest = (512, 2048, 8192), []
    for count in counts:
        plane = np.concatenate([rng.random((count, 2)), np.zeros((count, 1))], axis=1)
        scores = d.density_scores(plane)
        nearest.append(scores["nearest"])
        # mean nearest distance of a Poisson process in the plane: 0.5 / sqrt(density)
        assert scores["nearest"] == pytest.approx(0.5 / math.sqrt(count), rel=0.06)
        assert scores["variation"] == pytest.approx(
            0.523, abs=0.09 if count < 8192 else 0.03
        )  # borders weigh on small sets
        assert scores["flatness"] < 1e-6
    assert d.density_slope(counts, nearest) == pytest.approx(-0.5, abs=0.03)
    fuzz = d.density_scores(rng.normal(size=(2048, 3)))
    assert fuzz["flatness"] > 0.3


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.full((600, 3), np.nan), np.zeros((4, 2)), np.zeros(3)])
def test_clouds_without_finite_points_are_refused(bad: np.ndarray) -> None:
    good = np.random.default_rng(0).random((600, 3))
    for score in (d.chamfer_distance, d.earth_movers_distance):
        with pytest.raises(ShapeError, match="cloud"):
            score(good, bad)
    for score in (d.chamfer_table, d.emd_table, d.jensen_shannon):
        with pytest.raises(ShapeError, match="cloud"):
            score([good], [bad])
    with pytest.raises(ShapeError, match="N at least 2"):
        d.density_scores(bad)


def test_empty_sets_and_tables_with_nan_are_refused() -> None:
    assert d.emd_table([], []).shape == d.chamfer_table([], []).shape == (0, 0)
    with pytest.raises(ShapeError, match="sets of 0 and 0 clouds"):
        d.jensen_shannon([], [])
    table = np.array([[1.0, np.nan], [2, 3]])
    for score in (d.mmd, d.coverage, lambda one: d.nearest_neighbor_accuracy(np.ones((2, 2)), one, np.ones((2, 2)))):
        with pytest.raises(ShapeError, match="NaN"):
            score(table)


def test_density_of_equal_points_has_no_variation() -> None:
    scores = d.density_scores(np.ones((20, 3)))
    assert scores["nearest"] == scores["flatness"] == 0 and math.isnan(scores["variation"])
