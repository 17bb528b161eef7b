"""Rendering of meshes by ray casting with embree: colour, alpha, depth and normals; no display and no GPU needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lumina_3d.views.cameras import Camera, rays
from lumina_core.errors import ConfigError

AMBIENT = 0.62
"""Share of the colour of a face that no light of the scene reaches."""
SKY, KEY = 0.2, 0.3
"""Shares of a light from above, and of one from the front, left and above."""
KEY_DIRECTION = np.array([0.62, 0.48, 0.62])
_BLOCK_RAYS = 1 << 19
BYTES_PER_RAY = 300
"""Rough need of a ray of a picture, of which a whole one is cast at once."""
_embree_process: dict[str, int] = {}


@dataclass(frozen=True)
class Renders:
    """Pictures of one mesh.

    Attributes:
        rgba: (V, rows, columns, 4) uint8; colours are not multiplied by alpha, and 0 where alpha is.
        depth: (V, rows, columns) float32 along the optical axis, in sides of the object; inf where no ray hits.
        normals: (V, rows, columns, 3) float32 unit vectors of the world, towards the camera; 0 where no ray hits.
    """

    rgba: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """Triangles and their colours, ready to be rendered.

    Attributes:
        vertices: (N, 3) float64.
        faces: (M, 3) int64.
        face_colors: (M, 3) float in 0..1; for textures the colours are read by `sample_color` instead.
        corner_uv: (M, 3, 2) texture coordinates of the corners, or None.
        texture: (rows, columns, 3) float in 0..1, or None.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    face_colors: npt.NDArray[np.float64]
    corner_uv: npt.NDArray[np.float64] | None = None
    texture: npt.NDArray[np.float64] | None = None

    def colors(self, faces: npt.NDArray[np.int64], u: Any, v: Any) -> npt.NDArray[np.float64]:
        """Return the colours (K, 3) at barycentric coordinates (u of corner 1, v of corner 2) of faces (K,)."""
        if self.corner_uv is None or self.texture is None:
            return np.asarray(self.face_colors[faces])
        weights = np.stack([1 - u - v, u, v], axis=1)
        uv = (self.corner_uv[faces] * weights[..., None]).sum(axis=1)
        rows, columns = self.texture.shape[:2]
        column = np.floor((uv[:, 0] % 1.0) * columns).astype(int).clip(0, columns - 1)
        row = np.floor((1.0 - uv[:, 1] % 1.0) * rows).astype(int).clip(0, rows - 1)
        return np.asarray(self.texture[row, column])


def surface_of(mesh: Any) -> Surface:
    """Return the surface of a `trimesh.Trimesh`, with its face, vertex or texture colours; grey without colours.

    Raises:
        ConfigError: the mesh has no faces or its vertices are not finite.
    """
    if not hasattr(mesh, "visual"):
        return Surface(mesh.vertices, mesh.faces, np.asarray(mesh.face_colors, dtype=np.float64) / 255)
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    if not len(faces) or not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise ConfigError(
            f"mesh: got {len(faces)} faces and {len(vertices)} vertices, expected faces of finite vertices"
        )
    visual = mesh.visual
    if visual.kind == "texture":
        uv, image = visual.uv, _texture_image(visual.material)
        if uv is not None and image is not None:
            colors = np.full((len(faces), 3), 0.7)
            return Surface(vertices, faces, colors, np.asarray(uv, dtype=np.float64)[faces], image)
        main = np.asarray(visual.material.main_color, dtype=np.float64)[:3] / 255
        return Surface(vertices, faces, np.broadcast_to(main, (len(faces), 3)))
    if visual.kind is None:
        return Surface(vertices, faces, np.full((len(faces), 3), 0.7))
    return Surface(vertices, faces, np.asarray(visual.face_colors, dtype=np.float64)[:, :3] / 255)


def normalized(surface: Surface) -> Surface:
    """Return the surface centred on its box, its longest side 1.

    Raises:
        ConfigError: the faces have no area, or the box is too large for floating point numbers.
    """
    used = surface.vertices[np.unique(surface.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    with np.errstate(over="ignore"):  # of huge numbers, which are refused
        side = float((high - low).max())
    if not 0 < side < np.inf:
        raise ConfigError(f"mesh: got a box of side {side:g}, expected a surface of some finite extent")
    vertices = (surface.vertices - (low + high) / 2) / side
    corners = vertices[surface.faces]
    if not np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).any():
        raise ConfigError("mesh: got faces that have no area, expected a surface")
    return Surface(vertices, surface.faces, surface.face_colors, surface.corner_uv, surface.texture)


class Renderer:
    """Ray caster of one surface; building it costs more than a picture.

    Args:
        surface: triangles and colours, or a `trimesh.Trimesh`.
        shaded: False: colours as they are.

    Raises:
        ConfigError: embree is not installed, or the mesh has no faces.
    """

    def __init__(self, surface: Any, shaded: bool = True) -> None:
        self.surface = surface if isinstance(surface, Surface) else surface_of(surface)
        self.shaded = shaded
        _check_process()
        try:
            from embreex import rtcore_scene
            from embreex.mesh_construction import TriangleMesh
        except ImportError as error:
            raise ConfigError(
                "rendering: got no embree, expected the package embreex. Install it: pip install 'lumina-3d[render]'"
            ) from error
        corners = np.ascontiguousarray(self.surface.vertices[self.surface.faces], dtype=np.float32)
        self._scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self._scene, corners)
        edges = np.cross(
            corners[:, 1].astype(np.float64) - corners[:, 0], corners[:, 2].astype(np.float64) - corners[:, 0]
        )
        length = np.linalg.norm(edges, axis=1, keepdims=True)
        self._normals = edges / np.where(length == 0, 1.0, length)

    def __call__(self, cameras: Sequence[Camera], rows: int, columns: int | None = None, samples: int = 2) -> Renders:
        """Render pictures.

        Args:
            cameras: V cameras.
            rows, columns: size in pixels; None: square.
            samples: rays per pixel along each axis, at least 1.
        """
        columns = rows if columns is None else columns
        per_view = rows * columns * samples**2
        block = max(1, _BLOCK_RAYS // per_view)
        parts = [self._render(cameras[k : k + block], rows, columns, samples) for k in range(0, len(cameras), block)]
        return Renders(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _render(self, cameras: Sequence[Camera], rows: int, columns: int, samples: int) -> tuple[Any, Any, Any]:
        pairs = [rays(camera, rows, columns, samples) for camera in cameras]
        origins = np.concatenate([origin.reshape(-1, 3) for origin, _ in pairs]).astype(np.float32)
        directions = np.concatenate([direction.reshape(-1, 3) for _, direction in pairs])
        hits = self._scene.run(origins, directions.astype(np.float32), output=1)
        face = hits["primID"].astype(np.int64)
        hit = np.flatnonzero(face >= 0)
        face = face[hit]
        color = self.surface.colors(face, hits["u"][hit], hits["v"][hit])
        normal = self._normals[face]
        facing = np.where((normal * directions[hit]).sum(axis=1, keepdims=True) > 0, -1.0, 1.0)
        normal = normal * facing
        if self.shaded:
            color = color * shade(normal)[:, None]
        forward = np.stack([-camera.pose[:3, 2] for camera in cameras]).repeat(rows * columns * samples**2, axis=0)
        distance = hits["tfar"][hit] * (directions[hit] * forward[hit]).sum(axis=1)
        shape = (len(cameras), rows, samples, columns, samples)
        alpha, rgb, normals = np.zeros(len(origins)), np.zeros((len(origins), 3)), np.zeros((len(origins), 3))
        depth = np.full(len(origins), np.inf)
        alpha[hit], rgb[hit], normals[hit], depth[hit] = 1.0, color, normal, distance
        coverage = alpha.reshape(shape).mean(axis=(2, 4))
        weight = np.where(coverage == 0, 1.0, coverage)[..., None]
        mean = rgb.reshape(*shape, 3).mean(axis=(2, 4)) / weight
        rgba = np.concatenate([mean.clip(0, 1), coverage[..., None]], axis=-1)
        summed = normals.reshape(*shape, 3).mean(axis=(2, 4))
        length = np.linalg.norm(summed, axis=-1, keepdims=True)
        return (
            np.round(rgba * 255).astype(np.uint8),
            depth.reshape(shape).min(axis=(2, 4)).astype(np.float32),
            (summed / np.where(length == 0, 1.0, length)).astype(np.float32),
        )


def check_memory(views: int, size: int, samples: int, available: int | None = None) -> None:
    """Raise ConfigError if the pictures of one object need more memory than there is.

    Args:
        views, size, samples: pictures, their side in pixels, and rays per pixel along each axis.
        available: bytes; None: the available memory of the machine, or no check where it is unknown.
    """
    import torch

    from lumina_core import device

    free = device.available_memory(torch.device("cpu")) if available is None else available
    rays_at_once = max((size * samples) ** 2, min(_BLOCK_RAYS, views * (size * samples) ** 2))
    needed = BYTES_PER_RAY * rays_at_once + 40 * views * size**2
    if free is not None and needed > free:
        raise ConfigError(
            f"render: got {views} pictures of {size} pixels with {samples} samples, which need about "
            f"{needed / 2**30:.1f} GB of memory, expected at most {free / 2**30:.1f} GB. Lower size, samples or views."
        )


def _check_process() -> None:
    """Raise ConfigError in a process that was forked after embree ran in its parent: its threads are missing here."""
    if _embree_process.setdefault("id", os.getpid()) != os.getpid():
        raise ConfigError(
            "rendering: got a process that was forked after embree ran, expected a new one, where embree would never "
            "return. Set training.num_workers to 0, or render first: lumina render"
        )


def shade(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the brightness (K,) in about 0.5..1 of surfaces with unit normals (K, 3), lights fixed in the world."""
    sky = SKY * (normals[:, 2] + 1) / 2
    key = KEY * (normals @ (KEY_DIRECTION / np.linalg.norm(KEY_DIRECTION))).clip(0, None)
    return np.asarray(AMBIENT + sky + key).clip(0, 1)


def _texture_image(material: Any) -> npt.NDArray[np.float64] | None:
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    image = material.image if isinstance(material, SimpleMaterial) else None
    factor = np.ones(3)
    if isinstance(material, PBRMaterial):
        image = material.baseColorTexture
        if material.baseColorFactor is not None:  # glTF 2.0, section 3.9.2: the factor multiplies the texture
            factor = np.asarray(material.baseColorFactor, dtype=np.float64)[:3] / 255
    return None if image is None else np.asarray(image.convert("RGB"), dtype=np.float64) / 255 * factor
