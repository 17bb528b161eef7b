"""Attributes of a shape, read back from points on its surface.

Every function takes points (N, 3), 512 or more, in the frame of the families: +z up, the front faces +x. The scale does
not matter. Thresholds lie in the gaps between the values of `shapes.ATTRIBUTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from lumina_3d.families.shapes import ATTRIBUTES
from lumina_core.errors import ConfigError

FloatArray = NDArray[np.float64]
MIN_POINTS = 64
_OUTLIERS = 0.002
"""Share of points beyond each side of the box that is measured, so that single stray points do not count."""


def measure(family: str, points: NDArray[np.floating]) -> dict[str, str]:
    """Read every attribute of a family from points.

    Args:
        family: one of `shapes.FAMILIES`.
        points: (N, 3), at least 64 points.

    Returns:
        The value of each attribute of `shapes.ATTRIBUTES[family]`.

    Raises:
        ConfigError: there is no such family, there are too few points, or one is not finite.
    """
    if family not in ATTRIBUTES:
        raise ConfigError(f"family: got {family!r}, expected one of {', '.join(ATTRIBUTES)}.")
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 3 or len(values) < MIN_POINTS:
        raise ConfigError(f"points: got the shape {values.shape}, expected (N, 3) with at least {MIN_POINTS} points.")
    if not np.isfinite(values).all():
        raise ConfigError("points: got coordinates that are not finite, expected finite ones.")
    low, high = np.quantile(values, [_OUTLIERS, 1 - _OUTLIERS], axis=0)
    unit = (values - (low + high) / 2) / max(float((high - low).max()), 1e-9)
    return {name: function(unit) for name, function in _MEASURES[family].items()}


def box(points: FloatArray) -> FloatArray:
    """Return the sides (3,) of the box, without the outermost points."""
    low, high = np.quantile(points, [_OUTLIERS, 1 - _OUTLIERS], axis=0)
    sides: FloatArray = np.maximum(high - low, 1e-9)
    return sides


def _height_ratio(points: FloatArray) -> float:
    """Return height over the longer side of the footprint."""
    sides = box(points)
    return float(sides[2] / sides[:2].max())


def _level(points: FloatArray, low: float, high: float) -> FloatArray:
    """Return the points between two heights, given as shares of the whole height."""
    bottom, top = np.quantile(points[:, 2], [_OUTLIERS, 1 - _OUTLIERS])
    share = (points[:, 2] - bottom) / max(top - bottom, 1e-9)
    level: FloatArray = points[(share >= low) & (share <= high)]
    return level


def _radii(points: FloatArray) -> FloatArray:
    """Return distances from the middle of the footprint's box, in units of half its shorter side."""
    if len(points) < 3:
        return np.zeros(0)
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    half = max(float((high - low).min()) / 2, 1e-9)
    return np.asarray(np.linalg.norm(points[:, :2] - (low + high) / 2, axis=1) / half)


def _is_central(points: FloatArray, low: float, high: float) -> bool:
    """Return whether most points at these heights lie near the axis: one column instead of legs at the corners."""
    level = _level(points, low, high)
    if len(level) < 4:
        return False
    footprint = points[:, :2]
    corner_low, corner_high = np.quantile(footprint, [0.01, 0.99], axis=0)
    distances = np.linalg.norm((level[:, :2] - (corner_low + corner_high) / 2) / (corner_high - corner_low), axis=1)
    return bool(np.median(distances) < 0.3)


def _chair_height(points: FloatArray) -> str:
    return "tall" if _height_ratio(points) > 1.72 else "low"


def _chair_legs(points: FloatArray) -> str:
    if not _is_central(points, 0.14, 0.25):
        return "four"
    foot = _level(points, 0.0, 0.1)
    radii = _radii(foot)
    if not len(radii):
        return "pedestal"
    # a disc has points at all angles of its rim, a star only along five arms
    angles = np.arctan2(*(foot[:, :2] - (foot[:, :2].min(axis=0) + foot[:, :2].max(axis=0)) / 2).T)
    outer = angles[radii > 0.6]
    five = abs(np.exp(5j * outer).mean()) if len(outer) else 0.0
    return "wheels" if five > 0.5 else "pedestal"


def _seat_height(points: FloatArray) -> float:
    """Return the height of the highest of the dense horizontal layers: the top of a seat or a table."""
    # armrests are dense layers at the sides
    inner = np.abs(points[:, 1]) < 0.3 * box(points)[1]
    counts, edges = np.histogram(points[inner, 2], bins=40, range=(points[:, 2].min(), points[:, 2].max()))
    smooth = counts[:-1] + counts[1:]
    # the foot of a pedestal is a dense layer too
    lowest = int(np.searchsorted(edges, np.quantile(points[:, 2], 0.002) + 0.2 * np.ptp(edges)))
    dense = np.flatnonzero(smooth[lowest:] > 0.6 * smooth[lowest:].max())
    return float(edges[lowest + int(dense[-1]) + 1])


def _chair_arms(points: FloatArray) -> str:
    seat = _seat_height(points)
    sides = box(points)
    above = points[points[:, 2] > seat + 0.05 * sides[2]]
    near_seat = points[np.abs(points[:, 2] - seat) < 0.04 * sides[2]]
    if len(near_seat) < 4:
        return "no"
    middle = (near_seat[:, 0].min() + near_seat[:, 0].max()) / 2
    front = (above[:, 0] > middle - 0.05 * sides[0]).sum()
    return "yes" if front > 0.015 * len(points) else "no"


def _table_height(points: FloatArray) -> str:
    return "tall" if _height_ratio(points) > 0.6 else "low"


def _hull_share(points: FloatArray) -> float:
    """Return the area of the footprint's convex hull over that of its box: pi / 4 for a disc, 1 for a rectangle."""
    flat = points[:, :2]
    try:
        hull = float(ConvexHull(flat).volume)
    except (QhullError, ValueError):
        return 0.0
    return hull / max(float(np.ptp(flat, axis=0).prod()), 1e-9)


def _table_top(points: FloatArray) -> str:
    top = points[points[:, 2] > _seat_height(points) - 0.06]
    return "round" if _hull_share(top) < 0.865 else "square"


def _table_legs(points: FloatArray) -> str:
    return "pedestal" if _is_central(points, 0.25, 0.7) else "four"


def _lamp_height(points: FloatArray) -> str:
    return "tall" if _height_ratio(points) > 2.4 else "short"


def _lamp_shade(points: FloatArray) -> str:
    radii = np.linalg.norm(points[:, :2] - np.median(points[:, :2], axis=0), axis=1)
    widest = float(np.quantile(radii, 0.995))
    at = points[radii > 0.93 * widest, 2]
    upper = points[(radii > 0.45 * widest) & (points[:, 2] > np.quantile(points[:, 2], 0.3)), 2]
    if not len(at) or not len(upper):
        return "cone"
    low, high = np.quantile(upper, [0.01, 0.99])
    share = (np.median(at) - low) / max(high - low, 1e-9)
    return "ball" if share > 0.3 else "cone"


def _sofa_width(points: FloatArray) -> str:
    sides = box(points)
    return "wide" if sides[1] / sides[0] > 1.55 else "narrow"


def _sofa_arms(points: FloatArray) -> str:
    sides, front = box(points), points[points[:, 0] > np.quantile(points[:, 0], 0.002) + 0.55 * box(points)[0]]
    half = sides[1] / 2
    inner = front[np.abs(front[:, 1]) < 0.45 * half]
    outer = front[np.abs(front[:, 1]) > 0.93 * half]
    if len(inner) < 4 or len(outer) < 4:
        return "no"
    rise = np.quantile(outer[:, 2], 0.97) - np.quantile(inner[:, 2], 0.97)
    return "yes" if rise > 0.085 * sides[2] else "no"


def _shelf_height(points: FloatArray) -> str:
    return "tall" if _height_ratio(points) > 1.2 else "wide"


def _shelf_back(points: FloatArray) -> str:
    sides = box(points)
    rear = np.quantile(points[:, 0], _OUTLIERS)
    share = ((points[:, 0] - rear) < 0.12 * sides[0]).mean()
    front = (np.quantile(points[:, 0], 1 - _OUTLIERS) - points[:, 0] < 0.12 * sides[0]).mean()
    return "closed" if share > 1.8 * front else "open"


def _bed_width(points: FloatArray) -> str:
    sides = box(points)
    return "double" if sides[1] / sides[0] > 0.635 else "single"


def _bed_headboard(points: FloatArray) -> str:
    sides = box(points)
    rear = points[points[:, 0] < np.quantile(points[:, 0], _OUTLIERS) + 0.06 * sides[0]]
    middle = points[np.abs(points[:, 0]) < 0.2 * sides[0]]
    if len(rear) < 4 or len(middle) < 4:
        return "no"
    return "yes" if np.quantile(rear[:, 2], 0.95) - np.quantile(middle[:, 2], 0.99) > 0.1 * sides[0] else "no"


def _aeroplane_length(points: FloatArray) -> str:
    sides = box(points)
    return "long" if sides[0] / sides[1] > 1.08 else "short"


def _aeroplane_wings(points: FloatArray) -> str:
    half = box(points)[1] / 2
    out = np.abs(points[:, 1]) / half
    inner, outer = points[(out > 0.5) & (out < 0.65)], points[(out > 0.85)]
    if len(inner) < 3 or len(outer) < 3:
        return "straight"
    slope = (np.median(inner[:, 0]) - np.median(outer[:, 0])) / (0.35 * half)
    return "swept" if slope > 0.28 else "straight"


def _car_body(points: FloatArray) -> str:
    roof = _level(points, 0.82, 1.0)
    sides = box(points)
    low, high = np.quantile(roof[:, 0], [0.02, 0.98])
    if (high - low) / sides[0] > 0.62:
        return "van"
    rear = np.quantile(points[:, 0], _OUTLIERS)
    return "pickup" if (low - rear) / sides[0] > 0.36 else "sedan"


def _car_wheels(points: FloatArray) -> str:
    sides = box(points)
    along = np.sort(_level(points, 0.0, 0.1)[:, 0]) / sides[0]
    # a wheel touches the ground in a patch of points; patches of different wheels lie apart
    patches = np.split(along, np.flatnonzero(np.diff(along) > 0.05) + 1)
    return "six" if sum(len(patch) >= 2 for patch in patches) >= 3 else "four"


def _mug_parts(points: FloatArray) -> tuple[float, float, float]:
    """Return diameter, height, and how far +y reaches beyond the body."""
    sides = box(points)
    low_x, high_x = np.quantile(points[:, 0], [_OUTLIERS, 1 - _OUTLIERS])
    beyond = sides[1] - (high_x - low_x)
    return float(high_x - low_x), float(sides[2]), float(beyond)


def _mug_height(points: FloatArray) -> str:
    diameter, height, _ = _mug_parts(points)
    return "tall" if height / diameter > 1.22 else "wide"


def _mug_handle(points: FloatArray) -> str:
    diameter, _, beyond = _mug_parts(points)
    return "yes" if beyond > 0.1 * diameter else "no"


def _vase_height(points: FloatArray) -> str:
    return "tall" if _height_ratio(points) > 1.75 else "short"


def _vase_neck(points: FloatArray) -> str:
    center = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    radii = np.linalg.norm(points[:, :2] - center, axis=1)
    top = _level(np.concatenate([points[:, :2] - center, points[:, 2:]], axis=1), 0.93, 1.0)
    if len(top) < 3:
        return "narrow"
    share = np.quantile(np.linalg.norm(top[:, :2], axis=1), 0.8) / np.quantile(radii, 0.995)
    return "wide" if share > 0.56 else "narrow"


_MEASURES: Mapping[str, Mapping[str, Callable[[FloatArray], str]]] = {
    "chair": {"height": _chair_height, "arms": _chair_arms, "legs": _chair_legs},
    "table": {"height": _table_height, "top": _table_top, "legs": _table_legs},
    "lamp": {"height": _lamp_height, "shade": _lamp_shade},
    "sofa": {"width": _sofa_width, "arms": _sofa_arms},
    "shelf": {"height": _shelf_height, "back": _shelf_back},
    "bed": {"width": _bed_width, "headboard": _bed_headboard},
    "aeroplane": {"length": _aeroplane_length, "wings": _aeroplane_wings},
    "car": {"body": _car_body, "wheels": _car_wheels},
    "mug": {"height": _mug_height, "handle": _mug_handle},
    "vase": {"height": _vase_height, "neck": _vase_neck},
}
