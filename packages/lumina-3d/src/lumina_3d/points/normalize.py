"""Normalization of point clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lumina_core.errors import ConfigError

FloatArray = NDArray[np.float64]


def center_and_scale(points: NDArray[np.floating]) -> FloatArray:
    """Move the centre of a cloud's box to the origin, and divide by half of its longest side: into [-1, 1].

    This is "shape_bbox" of Luo and Hu (arXiv 2103.01458).

    Args:
        points: (N, 3).

    Raises:
        ConfigError: there are no points, they are all the same, or not finite.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ConfigError(f"points: got the shape {values.shape}, expected (N, 3) with at least 1 point, all finite.")
    low, high = values.min(axis=0), values.max(axis=0)
    half = float((high - low).max()) / 2
    if not 0 < half < np.inf:
        raise ConfigError(f"points: got a box of side {2 * half:g}, expected points of some finite extent.")
    normalized: FloatArray = (values - (low + high) / 2) / half
    return normalized
