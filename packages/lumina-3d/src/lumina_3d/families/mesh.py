"""Triangle meshes with a colour per face, and the solids that the families are built from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Y_UP_SUFFIXES = (".obj", ".glb", ".gltf")
"""Suffixes of meshes that have +y up and their front at +z; they are turned so that +z is up and the front at +x."""
SEGMENTS = 24
"""Sides of a round solid."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with one colour each.

    The world is right-handed with +z up; the front of an object faces +x.

    Attributes:
        vertices: (V, 3) coordinates.
        faces: (F, 3) indices of vertices, counter-clockwise seen from outside.
        face_colors: (F, 3) uint8, red, green and blue.
    """

    vertices: FloatArray
    faces: IntArray
    face_colors: NDArray[np.uint8]

    def normalized(self, side: float = 1.0) -> Mesh:
        """Return the mesh with the centre of its box at the origin and its longest side equal to `side`."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        scale = side / float((high - low).max())
        return Mesh((self.vertices - (low + high) / 2) * scale, self.faces, self.face_colors)

    def face_areas(self) -> FloatArray:
        """Return the area of each face (F,)."""
        corners = self.vertices[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas: FloatArray = np.sqrt((normals**2).sum(axis=1)) / 2
        return areas

    def sample(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """Draw points on the surface, uniform by area.

        Args:
            count: number of points, at least 1.
            rng: source of the draws.

        Returns:
            Points (count, 3), and the face (count,) of each.
        """
        cumulative = np.cumsum(self.face_areas())
        faces = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        faces = np.minimum(faces, len(self.faces) - 1)
        # the square root makes the draw uniform within a triangle (Osada et al. 2002, eq. 1)
        root, share = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
        a, b, c = (self.vertices[self.faces[faces, corner]] for corner in range(3))
        return (1 - root) * a + root * (1 - share) * b + root * share * c, faces


class MeshBuilder:
    """Collects solids and joins them to one mesh. Every method adds one solid in a colour."""

    def __init__(self) -> None:
        self._vertices: list[FloatArray] = []
        self._faces: list[IntArray] = []
        self._colors: list[tuple[Color, int]] = []
        self._count = 0

    def add(self, vertices: FloatArray, faces: IntArray, color: Color) -> None:
        """Add triangles: vertices (V, 3), faces (F, 3)."""
        self._vertices.append(vertices)
        self._faces.append(faces + self._count)
        self._colors.append((color, len(faces)))
        self._count += len(vertices)

    def box(self, center: Sequence[float], size: Sequence[float], color: Color, pitch: float = 0.0) -> None:
        """Add a box; `pitch` turns it about the y axis through its centre, in radians."""
        vertices = _BOX_VERTICES * (np.asarray(size) / 2)
        if pitch:
            x, z = vertices[:, 0].copy(), vertices[:, 2].copy()
            vertices[:, 0] = x * math.cos(pitch) + z * math.sin(pitch)
            vertices[:, 2] = z * math.cos(pitch) - x * math.sin(pitch)
        self.add(vertices + np.asarray(center), _BOX_FACES, color)

    def rod(
        self,
        start: Sequence[float],
        end: Sequence[float],
        radius: float,
        color: Color,
        end_radius: float | None = None,
        segments: int = SEGMENTS,
    ) -> None:
        """Add a round rod with flat ends, from `start` to `end`; `end_radius` None: as thick as at the start."""
        first, last = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        axis = (last - first) / float(np.linalg.norm(last - first))
        helper = np.array([1.0, 0, 0]) if abs(axis[2]) > 0.9 else np.array([0, 0, 1.0])
        right = np.cross(helper, axis)
        right /= np.linalg.norm(right)
        circle = _circle(segments)
        ring = circle[:, :1] * right + circle[:, 1:] * np.cross(axis, right)
        second = radius if end_radius is None else end_radius
        vertices = np.concatenate([first + radius * ring, last + second * ring, first[None], last[None]])
        self.add(vertices, _rod_faces(segments), color)

    def lathe(
        self,
        profile: Sequence[tuple[float, float]],
        color: Color,
        center: tuple[float, float] = (0.0, 0.0),
        segments: int = SEGMENTS,
    ) -> None:
        """Add a surface of revolution about a vertical axis.

        Args:
            profile: (radius, height) from the bottom on the outside up; a radius of 0 closes the surface.
            color: of all faces.
            center: x and y of the axis.
            segments: sides.
        """
        radii = np.array([radius for radius, _ in profile])
        heights = np.array([height for _, height in profile])
        circle = _circle(segments)
        plane = radii[:, None, None] * circle[None]
        rows = np.concatenate([plane, np.broadcast_to(heights[:, None, None], (len(radii), segments, 1))], axis=2)
        vertices = rows.reshape(-1, 3) + np.array([*center, 0.0])
        self.add(vertices, _grid_faces(len(radii), segments, True), color)

    def extrude(self, outline: Sequence[tuple[float, float]], width: float, color: Color, center_y: float = 0) -> None:
        """Add a solid with the side view `outline` ((x, z), counter-clockwise, star-shaped from its mean).

        Args:
            outline: corners of the side view.
            width: extent along y.
            color: of all faces.
            center_y: y of the middle.
        """
        points = np.array(outline, dtype=float)
        count = len(points)
        middle = points.mean(axis=0)
        sides = []
        for y in (center_y - width / 2, center_y + width / 2):
            both = np.concatenate([points, middle[None]])
            sides.append(np.stack([both[:, 0], np.full(count + 1, y), both[:, 1]], axis=1))
        self.add(np.concatenate(sides), _extrude_faces(count), color)

    def wing(
        self, root: Sequence[float], tip: Sequence[float], chords: tuple[float, float], thickness: float, color: Color
    ) -> None:
        """Add a flat wing from `root` to `tip` (centres of the leading edges' chords).

        Args:
            root: centre of the inner chord.
            tip: centre of the outer chord.
            chords: length along x at the root and at the tip.
            thickness: of the wing at the root; half of it at the tip.
            color: of all faces.
        """
        first, last = np.asarray(root, dtype=float), np.asarray(tip, dtype=float)
        span = last - first
        up = np.cross([1.0, 0, 0], span)
        up /= np.linalg.norm(up)
        corners = []
        for at, chord, thick in ((first, chords[0], thickness), (last, chords[1], thickness / 2)):
            for along, above in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corners.append(at + np.array([along * chord / 2, 0, 0]) + above * thick / 2 * up)
        self.add(np.array(corners), _LOFT_FACES, color)

    def ellipsoid(self, center: Sequence[float], radii: Sequence[float], color: Color, segments: int = 16) -> None:
        """Add an ellipsoid with semi-axes `radii`."""
        angles = np.linspace(-math.pi / 2, math.pi / 2, segments // 2 + 1)
        circle = _circle(segments)
        plane = np.cos(angles)[:, None, None] * circle[None]
        height = np.broadcast_to(np.sin(angles)[:, None, None], (len(angles), segments, 1))
        unit = np.concatenate([plane, height], axis=2).reshape(-1, 3)
        vertices = unit * np.asarray(radii, dtype=float) + np.asarray(center, dtype=float)
        self.add(vertices, _grid_faces(len(angles), segments, True), color)

    def tube(self, path: FloatArray, radius: float, normal: Sequence[float], color: Color, segments: int = 10) -> None:
        """Add a round tube along a plane curve.

        Args:
            path: (K, 3) points of the curve.
            radius: of the tube.
            normal: unit normal of the plane of the curve.
            color: of all faces.
            segments: sides.
        """
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        up = np.asarray(normal, dtype=float)
        side = np.cross(up, tangent)
        circle = _circle(segments)
        rings = path[:, None] + radius * (circle[None, :, :1] * side[:, None] + circle[None, :, 1:] * up)
        self.add(rings.reshape(-1, 3), _grid_faces(len(path), segments, True), color)

    def build(self) -> Mesh:
        """Join all solids."""
        colors = np.concatenate([np.tile(np.array([color], dtype=np.uint8), (n, 1)) for color, n in self._colors])
        return Mesh(np.concatenate(self._vertices), np.concatenate(self._faces), colors)


@cache
def _circle(segments: int) -> FloatArray:
    angles = np.arange(segments) * (2 * math.pi / segments)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@cache
def _grid_faces(rows: int, columns: int, is_closed: bool) -> IntArray:
    """Return two triangles per cell of a grid of vertices whose columns form a ring."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if is_closed else columns - 1), indexing="ij")
    a = row * columns + column
    b = row * columns + (column + 1) % columns
    quads = np.stack([a, b, b + columns, a, b + columns, a + columns], axis=-1)
    return quads.reshape(-1, 3)


@cache
def _rod_faces(segments: int) -> IntArray:
    index = np.arange(segments)
    after = (index + 1) % segments
    start, end = np.full(segments, 2 * segments), np.full(segments, 2 * segments + 1)
    return np.concatenate(
        [
            _grid_faces(2, segments, True),
            np.stack([start, after, index], axis=1),
            np.stack([end, index + segments, after + segments], axis=1),
        ]
    )


@cache
def _extrude_faces(count: int) -> IntArray:
    index = np.arange(count)
    after = (index + 1) % count
    far = count + 1
    middle = np.full(count, count)
    return np.concatenate(
        [
            np.stack([middle, index, after], axis=1),
            np.stack([middle + far, after + far, index + far], axis=1),
            np.stack([index, index + far, after + far], axis=1),
            np.stack([index, after + far, after], axis=1),
        ]
    )


_BOX_VERTICES: FloatArray = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_BOX_FACES: IntArray = np.array(
    [
        [0, 1, 3],
        [0, 3, 2],
        [4, 6, 7],
        [4, 7, 5],
        [0, 4, 5],
        [0, 5, 1],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
)
_LOFT_FACES: IntArray = np.array(
    [
        [0, 5, 1],
        [0, 4, 5],
        [1, 6, 2],
        [1, 5, 6],
        [2, 7, 3],
        [2, 6, 7],
        [3, 4, 0],
        [3, 7, 4],
        [0, 2, 3],
        [0, 1, 2],
        [4, 6, 5],
        [4, 7, 6],
    ]
)
