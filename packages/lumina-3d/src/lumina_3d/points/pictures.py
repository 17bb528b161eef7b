"""Pictures of point clouds: a strip of views, a turning GIF, and an interactive page."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lumina_core.errors import PluginError, install_command
from lumina_core.io import atomic_file, new_dir

FloatArray = NDArray[np.float64]
ELEVATION = 20.0
"""Degrees above the horizon from which a cloud is seen."""
SIDE = 256
STRIP_VIEWS = 8
GIF_FRAMES = 36
LOW_COLOR, HIGH_COLOR = np.array([30.0, 60.0, 140.0]), np.array([250.0, 170.0, 60.0])


def draw_cloud(
    points: FloatArray, azimuth: float = 35.0, side: int = SIDE, elevation: float = ELEVATION
) -> Image.Image:
    """Draw a cloud in orthographic projection, nearer points over farther ones, coloured by height.

    Args:
        points: (N, 3) in about [-1, 1], +z up.
        azimuth: degrees counter-clockwise seen from above; 0 sees the front, from +x.
        side: width and height in pixels.
        elevation: degrees above the horizon.
    """
    turn, rise = math.radians(azimuth), math.radians(elevation)
    right = np.array([-math.sin(turn), math.cos(turn), 0.0])
    toward = np.array([math.cos(turn) * math.cos(rise), math.sin(turn) * math.cos(rise), math.sin(rise)])
    up = np.cross(toward, right)
    scale = side / 3.2
    column, row, depth = side / 2 + scale * points @ right, side / 2 - scale * points @ up, points @ toward
    radius = max(1, round(side / 256 * (2.5 if len(points) <= 1024 else 1.5 if len(points) <= 4096 else 1)))
    height = np.clip((points[:, 2:] + 1) / 2, 0, 1)
    shade = 0.55 + 0.45 * np.clip((depth + 1.2) / 2.4, 0, 1)[:, None]
    colors = (LOW_COLOR * (1 - height) + HIGH_COLOR * height) * shade
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    order = np.argsort(depth)
    rows, columns = np.round(row[order]).astype(int), np.round(column[order]).astype(int)
    for dy in range(-radius + 1, radius + 1):
        for dx in range(-radius + 1, radius + 1):
            y, x = rows + dy, columns + dx
            inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
            pixels[y[inside], x[inside]] = colors[order][inside].astype(np.uint8)
    return Image.fromarray(pixels)


def write_strip(points: FloatArray, path: Path, title: str = "") -> None:
    """Write a PNG with the cloud from eight sides, from left to right counter-clockwise."""
    views = [draw_cloud(points, 360 * index / STRIP_VIEWS) for index in range(STRIP_VIEWS)]
    _save(_paste(views, STRIP_VIEWS), path)


def write_gif(points: FloatArray, path: Path, title: str = "") -> None:
    """Write a GIF in which the cloud turns once in 3 seconds."""
    frames = [draw_cloud(points, 360 * index / GIF_FRAMES).convert("P") for index in range(GIF_FRAMES)]
    with atomic_file(path) as partial:
        frames[0].save(partial, format="GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)


def write_html(points: FloatArray, path: Path, title: str = "") -> None:
    """Write a page on which the cloud can be turned; it holds plotly and needs no network."""
    check_plotly()
    import plotly.graph_objects as go

    x, y, z = points.T.round(5).tolist()
    marker = {"size": 2 if len(points) > 1000 else 3, "color": z, "colorscale": "Viridis"}
    figure = go.Figure(go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker))
    figure.update_layout(title=title, scene={"aspectmode": "data"})
    with atomic_file(path) as partial:
        partial.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")


def check_plotly() -> None:
    """Raise PluginError if plotly is not installed."""
    if importlib.util.find_spec("plotly") is None:
        raise PluginError(f"html: got no plotly, expected it. Install it: {install_command('lumina-3d[plot]')}")


def draw_grid(clouds: Sequence[FloatArray], path: Path, columns: int = 8) -> Path:
    """Write a PNG with pictures of several clouds, and return its path."""
    with new_dir(path.parent):
        _save(_paste([draw_cloud(points) for points in clouds], min(columns, len(clouds))), path)
    return path


def _paste(views: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(views) // columns)
    sheet = Image.new("RGB", (SIDE * columns, SIDE * rows), "white")
    for index, view in enumerate(views):
        sheet.paste(view, (SIDE * (index % columns), SIDE * (index // columns)))
    return sheet


def _save(image: Image.Image, path: Path) -> None:
    with atomic_file(path) as partial:
        image.save(partial, format="PNG")
