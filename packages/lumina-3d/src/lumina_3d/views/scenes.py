"""Random cameras around an object, and pictures of the parametric families from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lumina_3d.views.cameras import Camera, look_at

if TYPE_CHECKING:
    from torch import Tensor

    from lumina_3d.views.rendering import Surface

FOV_RANGE = (25.0, 55.0)
"""Vertical FOV in degrees of training."""
FILL_RANGE = (0.52, 0.72)
"""Half height of the picture at the object's centre, less what the perspective adds, in sides of the object."""
ELEVATION_RANGE = (-5.0, 50.0)
"""Elevation in degrees of training."""
HELD_OUT_RIGS = ((45.0, 50.0), (0.63, 0.72))
"""FOV and fill that no training rig has together: for a test of pairs that were never seen."""
DEFAULT_FOV, DEFAULT_FILL = 40.0, 0.68
NEAR = 0.3
"""Radius that is added to that of a far object of the same size, in sides of the object."""


@dataclass(frozen=True)
class Rig:
    """Lens and distance that the pictures of one object share.

    Attributes:
        fov: vertical FOV in degrees.
        radius: distance to the centre, in sides of the object.
    """

    fov: float
    radius: float

    def camera(self, azimuth: float, elevation: float) -> Camera:
        """Return the camera at an azimuth and an elevation in degrees."""
        return look_at(azimuth, elevation, self.radius, self.fov)


def radius_for(fov: float, fill: float = DEFAULT_FILL) -> float:
    """Return the radius at which half the picture's height is about `fill` sides of the object."""
    return fill / math.tan(math.radians(fov) / 2) + NEAR


def is_held_out_rig(fov: float, fill: float) -> bool:
    """Return whether a pair of FOV and fill is left out of training."""
    (low, high), (small, large) = HELD_OUT_RIGS
    return low <= fov <= high and small <= fill <= large


def random_rig(rng: np.random.Generator) -> Rig:
    """Draw FOV and radius as in training."""
    while True:
        fov, fill = float(rng.uniform(*FOV_RANGE)), float(rng.uniform(*FILL_RANGE))
        if not is_held_out_rig(fov, fill):
            return Rig(fov, radius_for(fov, fill))


def held_out_rig(rng: np.random.Generator) -> Rig:
    """Draw FOV and radius from the pairs that are left out of training."""
    fov, fill = (float(rng.uniform(*part)) for part in HELD_OUT_RIGS)
    return Rig(fov, radius_for(fov, fill))


def random_cameras(rig: Rig, count: int, rng: np.random.Generator) -> list[Camera]:
    """Draw cameras: azimuths all around, one in each of `count` sectors, and elevations as in training."""
    start = rng.uniform(0, 360)
    turns = start + (np.arange(count) + rng.uniform(0, 1, count)) * 360 / count
    return [rig.camera(float(turn), float(rng.uniform(*ELEVATION_RANGE))) for turn in turns]


def render_views(
    surface: Surface | Any, cameras: Sequence[Camera], size: int, samples: int = 2
) -> npt.NDArray[np.uint8]:
    """Render (V, size, size, 4) uint8 RGBA pictures of a surface or mesh; colours are not multiplied by alpha."""
    from lumina_3d.views.rendering import Renderer

    return Renderer(surface)(cameras, size, samples=samples).rgba


def to_views(rgba: npt.NDArray[np.uint8] | Tensor) -> Tensor:
    """Convert RGBA pictures (V, H, W, 4) uint8 to data (4, V, H, W) in [-1, 1]: colours over white, then alpha."""
    import torch

    pictures = torch.as_tensor(rgba).float() / 255
    alpha = pictures[..., 3:]
    over_white = torch.cat([pictures[..., :3] * alpha + (1 - alpha), alpha], dim=-1)
    return over_white.movedim(-1, 0) * 2 - 1


def from_views(views: Tensor) -> npt.NDArray[np.uint8]:
    """Convert data (4, V, H, W) in about [-1, 1] to RGBA pictures (V, H, W, 4) uint8; the inverse of `to_views`."""
    import torch

    pictures = ((views.float().clamp(-1, 1) + 1) / 2).movedim(0, -1)
    rgb, alpha = pictures[..., :3], pictures[..., 3:]
    color = torch.where(alpha > 0, (rgb - (1 - alpha)) / alpha.clamp_min(1 / 255), torch.zeros_like(rgb))
    return (torch.cat([color.clamp(0, 1), alpha], dim=-1) * 255).round().to(torch.uint8).numpy()
