"""Drawings of cameras, from above and from the side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lumina_3d.views.cameras import Camera

SIDE, MARGIN = 320, 30


def draw_cameras(cameras: Sequence[Camera]) -> Image.Image:
    """Draw cameras as triangles with their numbers, and the unit cube of the object: x-y plane, then x-z plane."""
    reach = max(float(np.abs(camera.position).max()) for camera in cameras) + 0.4
    picture = Image.new("RGB", (2 * SIDE, SIDE), "white")
    for panel, (first, second, title) in enumerate(((0, 1, "from above"), (0, 2, "from the side"))):
        part = Image.new("RGB", (SIDE, SIDE), "white")
        _draw_panel(ImageDraw.Draw(part), cameras, first, second, title, reach)
        picture.paste(part, (panel * SIDE, 0))
    return picture


def _draw_panel(
    draw: ImageDraw.ImageDraw, cameras: Sequence[Camera], first: int, second: int, title: str, reach: float
) -> None:
    scale = (SIDE / 2 - MARGIN) / reach

    def place(point: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float]:
        return SIDE / 2 + scale * float(point[first]), SIDE / 2 - scale * float(point[second])

    draw.text((6, 4), f"{title}: {'xyz'[first]} right, {'xyz'[second]} up", fill="black")
    low, high = place(np.array([-0.5, -0.5, -0.5])), place(np.array([0.5, 0.5, 0.5]))
    draw.rectangle((low[0], high[1], high[0], low[1]), outline=(150, 150, 150))
    draw.text((high[0] + 3, SIDE / 2 - 6), "front", fill=(150, 150, 150))
    for index, camera in enumerate(cameras):
        half = np.tan(np.radians(camera.fov) / 2) * 0.35
        corners = [camera.pose[:3, :3] @ np.array([side * half, side * half, -0.35]) for side in (-1, 1)]
        points = [place(camera.position), *(place(camera.position + corner) for corner in corners)]
        draw.polygon(points, outline=(200, 60, 40))
        outward = camera.position * (1 + 0.2 / max(camera.radius, 1e-6))
        x, y = place(outward)
        draw.text((x - 4, y - 6), str(index), fill=(40, 60, 160))
