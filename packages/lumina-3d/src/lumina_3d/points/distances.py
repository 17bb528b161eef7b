"""Distances between point clouds, and scores of sets of clouds by them.

Definitions after PointFlow (arXiv 1906.12320) and its code: for a table D of distances between M generated and N real
clouds, MMD is the mean over real clouds of the smallest distance, COV the share of real clouds that are nearest to some
generated cloud, 1-NNA the leave-one-out accuracy of a nearest-neighbour classifier on both sets (0.5 is best).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from lumina_3d.points.cloud_io import local_axes
from lumina_core.errors import ShapeError

FloatArray = NDArray[np.float64]
Protocol = Literal["luo", "pointflow"]
"""luo: each cloud's box centre and half of its longest side, into [-1, 1]; pointflow: raw coordinates."""
EMD_POINTS = 512
"""Points drawn of each cloud for the earth mover's distance."""
JSD_SIDE, JSD_RADIUS = 28, 0.5
DENSITY_NEIGHBORS = 16


def chamfer_distance(first: FloatArray, second: FloatArray) -> float:
    """Compute the sum of the mean squared distances to the nearest point, from each cloud (N, 3) to the other.

    Raises:
        ShapeError: a cloud has no points, another shape, or coordinates that are not finite.
    """
    _check_clouds(first, second)
    return _chamfer(first, cKDTree(first), second, cKDTree(second))


def _chamfer(first: FloatArray, first_tree: cKDTree, second: FloatArray, second_tree: cKDTree) -> float:
    to_second = second_tree.query(first)[0]
    to_first = first_tree.query(second)[0]
    return float((to_second**2).mean() + (to_first**2).mean())


def earth_movers_distance(first: FloatArray, second: FloatArray) -> float:
    """Compute the mean distance between the points of two equally large clouds (N, 3) under the best assignment.

    Raises:
        ShapeError: the clouds differ in size, or as `chamfer_distance`.
    """
    _check_clouds(first, second)
    if len(first) != len(second):
        raise ShapeError(f"earth mover's distance: got {len(first)} and {len(second)} points, expected equally many.")
    distances = cdist(first, second)
    rows, columns = linear_sum_assignment(distances)
    return float(distances[rows, columns].mean())


def subsample(points: FloatArray, count: int = EMD_POINTS, seed: int = 0) -> FloatArray:
    """Draw `count` points of a cloud (N, 3) without replacement, by a seed; all points of a smaller cloud."""
    if len(points) <= count:
        return points
    return points[np.sort(np.random.default_rng(seed).choice(len(points), size=count, replace=False))]


def chamfer_table(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> FloatArray:
    """Compute Chamfer distances (M, N) between clouds of two sets; each search tree is built once.

    Raises:
        ShapeError: as `chamfer_distance`.
    """
    _check_clouds(*first, *second)
    first_trees, second_trees = [cKDTree(one) for one in first], [cKDTree(one) for one in second]
    return np.array(
        [
            [_chamfer(a, a_tree, b, b_tree) for b, b_tree in zip(second, second_trees, strict=True)]
            for a, a_tree in zip(first, first_trees, strict=True)
        ]
    ).reshape(len(first), len(second))


def emd_table(first: Sequence[FloatArray], second: Sequence[FloatArray], seed: int = 0) -> FloatArray:
    """Compute earth mover's distances (M, N) between clouds of two sets, on `EMD_POINTS` points drawn by the seed."""
    count = min([EMD_POINTS, *map(len, (*first, *second))])
    a, b = ([subsample(one, count, seed) for one in clouds] for clouds in (first, second))
    return np.array([[earth_movers_distance(x, y) for y in b] for x in a]).reshape(len(a), len(b))


def mmd(table: FloatArray) -> float:
    """Compute the mean over real clouds of the distance to the nearest generated one; table (generated, real)."""
    return float(_square(table).min(axis=0).mean())


def coverage(table: FloatArray) -> float:
    """Compute the share of real clouds that are the nearest to some generated one; table (generated, real)."""
    return len(np.unique(_square(table).argmin(axis=1))) / len(table)


def nearest_neighbor_accuracy(generated: FloatArray, cross: FloatArray, real: FloatArray) -> float:
    """Compute the leave-one-out accuracy of the nearest-neighbour classifier on both sets.

    Args:
        generated: (M, M) distances within the generated set.
        cross: (M, M) distances of generated to real clouds.
        real: (M, M) distances within the real set.

    Raises:
        ShapeError: the sets differ in size.
    """
    generated, cross, real = np.asarray(generated), _square(cross), np.asarray(real)
    if generated.shape != cross.shape or real.shape != cross.shape:
        raise ShapeError(f"tables: got {generated.shape}, {cross.shape} and {real.shape}, expected equal shapes.")
    table = np.block([[generated, cross], [cross.T, real]]).astype(np.float64)
    np.fill_diagonal(table, np.inf)
    is_generated = np.arange(len(table)) < len(generated)
    return float((is_generated[table.argmin(axis=1)] == is_generated).mean())


def jensen_shannon(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> float:
    """Compute the Jensen-Shannon divergence (base 2) of the points of two sets on a grid of 28^3 cells.

    As in PointFlow's code: points are counted at the grid point nearest to them, of those inside the sphere of radius
    0.5. Clouds must lie in it: halve coordinates in [-1, 1] first.

    Raises:
        ShapeError: a set is empty, or as `chamfer_distance`.
    """
    if not len(first) or not len(second):
        raise ShapeError(f"JSD: got sets of {len(first)} and {len(second)} clouds, expected at least 1 in each.")
    _check_clouds(*first, *second)
    axis = np.linspace(-JSD_RADIUS, JSD_RADIUS, JSD_SIDE)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    tree = cKDTree(grid[np.linalg.norm(grid, axis=1) <= JSD_RADIUS])
    p, q = (
        np.bincount(tree.query(np.concatenate(list(clouds)))[1], minlength=tree.n).astype(np.float64)
        for clouds in (first, second)
    )
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return (_divergence(p, middle) + _divergence(q, middle)) / 2


def density_scores(points: FloatArray) -> dict[str, float]:
    """Compute scores of the density of a cloud (N, 3), N at least 2.

    Returns:
        `nearest`: mean distance to the nearest other point. Points drawn by area have 0.5 sqrt(A / N).
        `variation`: coefficient of variation of these distances; 0.523 for points drawn by area, NaN if all are 0.
        `flatness`: median over points of the smallest over the largest deviation of the 16 nearest points.

    Raises:
        ShapeError: there are fewer than 2 points, or as `chamfer_distance`.
    """
    _check_clouds(points, at_least=2)
    distances = cKDTree(points).query(points, k=2)[0][:, 1]
    variances, _ = local_axes(points, DENSITY_NEIGHBORS)
    flatness = np.sqrt(variances[:, 0] / np.maximum(variances[:, 2], 1e-30))
    mean = float(distances.mean())
    variation = float(distances.std()) / mean if mean else float("nan")
    return {"nearest": mean, "variation": variation, "flatness": float(np.median(flatness))}


def density_slope(counts: Sequence[int], nearest: Sequence[float]) -> float:
    """Compute the slope of log mean nearest distance over log count: -0.5 for points on a surface."""
    return float(np.polyfit(np.log(counts), np.log(nearest), 1)[0])


def _divergence(p: FloatArray, q: FloatArray) -> float:
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / q[seen])).sum())


def _square(table: FloatArray) -> FloatArray:
    table = np.asarray(table)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
        raise ShapeError(f"table: got {table.shape[:2]} generated and real clouds, expected equally many of both.")
    if np.isnan(table).any():
        raise ShapeError("table: got distances that are not numbers (NaN), expected numbers.")
    return table


def _check_clouds(*clouds: FloatArray, at_least: int = 1) -> None:
    for points in map(np.asarray, clouds):
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < at_least or not np.isfinite(points).all():
            raise ShapeError(
                f"cloud: got the shape {points.shape}, expected (N, 3), N at least {at_least}, all finite."
            )


Table = Callable[[Sequence[FloatArray], Sequence[FloatArray]], FloatArray]
"""Distances (M, N) between the clouds of two sets."""
