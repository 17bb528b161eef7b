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
        ConfigError: the points are all the same, or not finite.
    """
    values = np.asarray(points, dtype=np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    half = float((high - low).max()) / 2
    if not np.isfinite(half) or half <= 0:
        raise ConfigError(f"points: got a box of side {2 * half:g}, expected finite points of some extent.")
    normalized: FloatArray = (values - (low + high) / 2) / half
    return normalized
