"""Cameras: the convention of the package, orbits, projection, and conversion from and to other conventions.

World: right-handed, +z up, the object centred, its longest side 1. Camera: OpenGL axes (+x right, +y up, looks along
-z), pose as a camera-to-world matrix (4, 4). Azimuth: counter-clockwise seen from above, in degrees, 0 sees the front
(the camera stands on +x). Elevation: up from the horizon, in degrees. Radius: distance to the centre, in sides of the
object. FOV: vertical, in degrees. Pixels: the centre of pixel (row, column) is (row + 0.5, column + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lumina_core.errors import ConfigError

Array = npt.NDArray[np.float64]

CONVENTION = (
    "World: right-handed, +z up, object centred, its longest side 1. Camera: OpenGL (+x right, +y up, looks along -z), "
    "camera-to-world 4x4. Azimuth: degrees counter-clockwise seen from above, 0 sees the front (camera on +x). "
    "Elevation: degrees up from the horizon. Radius: distance to the centre. FOV: vertical, in degrees. "
    "Pixel centres at +0.5."
)
"""The convention in one paragraph, as `lumina cameras` prints it."""

MAX_RADIUS = 1e6
"""Largest distance of a camera, in sides of the object."""
MAX_ELEVATION = 89.9
"""Elevation in degrees up to which the up direction of a look-at camera is defined."""

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL's camera axes in OpenCV's, and back."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        pose: (4, 4) float64, camera to world.
        fov: vertical field of view in degrees, 0 < fov < 180.
        aspect: width over height of the picture, > 0.
        known: False: the pose is not known, and an encoding has to ignore it.
    """

    pose: Array
    fov: float
    aspect: float = 1.0
    known: bool = True

    def __post_init__(self) -> None:
        pose = np.asarray(self.pose, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ConfigError(f"camera: got a pose of shape {pose.shape}, expected a finite 4x4 matrix")
        with np.errstate(all="ignore"):  # of huge numbers, which are refused
            error = np.abs(pose[:3, :3].T @ pose[:3, :3] - np.eye(3)).max()
        if not error <= 1e-3 or np.linalg.det(pose[:3, :3]) < 0:
            raise ConfigError(
                f"camera: got a pose whose axes are not orthonormal and right-handed (error {error:.2g}), expected a "
                "rotation and a position. Remove scale and mirroring."
            )
        if np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
            raise ConfigError(
                f"camera: got a pose with the last row {pose[3].tolist()}, expected 0 0 0 1. Transpose it if it is "
                "stored by columns."
            )
        if not 0 < self.fov < 180:
            raise ConfigError(f"camera: got the FOV {self.fov:g}, expected degrees between 0 and 180")
        if not 0 < self.aspect < math.inf:
            raise ConfigError(f"camera: got the aspect {self.aspect:g}, expected a finite width over height above 0")
        object.__setattr__(self, "pose", pose)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Camera):
            return NotImplemented
        same = (self.fov, self.aspect, self.known) == (other.fov, other.aspect, other.known)
        return same and bool(np.array_equal(self.pose, other.pose))

    def __hash__(self) -> int:
        return hash((self.pose.tobytes(), self.fov, self.aspect, self.known))

    @property
    def position(self) -> Array:
        """(3,) position in the world."""
        return np.asarray(self.pose[:3, 3])

    @property
    def radius(self) -> float:
        """Distance to the centre of the world."""
        return float(np.linalg.norm(self.position))

    @property
    def azimuth(self) -> float:
        """Azimuth in degrees, 0 to 360; 0 on the vertical axis."""
        x, y, _ = self.position
        # of an angle just below 0 the first remainder is rounded to 360
        return math.degrees(math.atan2(y, x)) % 360.0 % 360.0 if math.hypot(x, y) > 1e-9 else 0.0

    @property
    def elevation(self) -> float:
        """Elevation in degrees, -90 to 90."""
        x, y, z = self.position
        return math.degrees(math.atan2(z, math.hypot(x, y)))

    @property
    def focal(self) -> float:
        """Focal length in half heights of the picture: 1 / tan(fov / 2)."""
        return 1.0 / math.tan(math.radians(self.fov) / 2)

    def moved(self, transform: Array) -> Camera:
        """Return the camera in another world, `transform` (4, 4) rigid: old world to new world."""
        return Camera(np.asarray(transform, dtype=np.float64) @ self.pose, self.fov, self.aspect, self.known)


def look_at(azimuth: float, elevation: float, radius: float, fov: float, aspect: float = 1.0) -> Camera:
    """Return a camera that looks at the centre.

    Args:
        azimuth: degrees counter-clockwise seen from above, 0 on +x.
        elevation: degrees, -89.9 to 89.9.
        radius: distance to the centre, > 0.
        fov: vertical field of view in degrees.
        aspect: width over height of the picture.

    Raises:
        ConfigError: a value is out of range.
    """
    for name, value in (("azimuth", azimuth), ("elevation", elevation), ("radius", radius), ("fov", fov)):
        if not math.isfinite(value):
            raise ConfigError(f"{name}: got {value}, expected a finite number")
    if abs(elevation) > MAX_ELEVATION + 1e-9:  # radians and back
        raise ConfigError(
            f"elevation: got {elevation:g} degrees, expected -{MAX_ELEVATION} to {MAX_ELEVATION}: beyond the pole the "
            "camera would be upside down. Add 180 to the azimuth and use 180 minus the elevation."
        )
    if not 0 < radius <= MAX_RADIUS:
        raise ConfigError(f"radius: got {radius:g}, expected a positive distance up to {MAX_RADIUS:g}")
    a, e = math.radians(azimuth), math.radians(elevation)
    backward = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(backward, right), backward, radius * backward
    return Camera(pose, fov, aspect)


def orbit(
    count: int,
    elevation: float = 20.0,
    radius: float = 2.0,
    fov: float = 40.0,
    start: float = 0.0,
    azimuths: Sequence[float] | None = None,
) -> list[Camera]:
    """Return cameras around the object, at equal steps of azimuth unless `azimuths` lists them.

    Args:
        count: number of cameras, at least 1.
        elevation, radius, fov: see `look_at`.
        start: azimuth of the first camera in degrees.
        azimuths: azimuth of each camera instead.
    """
    if count < 1:
        raise ConfigError(f"views: got {count}, expected at least 1")
    listed = [start + 360.0 * k / count for k in range(count)] if azimuths is None else list(azimuths)
    return [look_at(azimuth, elevation, radius, fov) for azimuth in listed]


def rays(camera: Camera, rows: int, columns: int, samples: int = 1) -> tuple[Array, Array]:
    """Return origins and unit directions in the world of the rays through a picture.

    Args:
        camera: the camera.
        rows, columns: size of the picture in pixels.
        samples: rays per pixel along each axis.

    Returns:
        Two (rows * samples, columns * samples, 3) arrays, row 0 at the top.
    """
    height, width = rows * samples, columns * samples
    up = 1.0 - 2.0 * (np.arange(height) + 0.5) / height
    right = (2.0 * (np.arange(width) + 0.5) / width - 1.0) * camera.aspect
    directions = np.empty((height, width, 3))
    directions[..., 0], directions[..., 1] = right[None], up[:, None]
    directions[..., 2] = -camera.focal
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.broadcast_to(camera.position, directions.shape), directions @ camera.pose[:3, :3].T


def project(camera: Camera, points: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Project points of the world to pixels.

    Args:
        camera: the camera.
        points: (N, 3).
        rows, columns: size of the picture in pixels.

    Returns:
        (N, 2) rows and columns in pixels, the centre of the first pixel at 0.5; and (N,) depth along the optical axis,
        negative behind the camera.
    """
    local = (np.asarray(points) - camera.position) @ camera.pose[:3, :3]
    depth = -local[:, 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    right = local[:, 0] / safe * camera.focal / camera.aspect
    up = local[:, 1] / safe * camera.focal
    return np.stack([(1 - up) / 2 * rows, (1 + right) / 2 * columns], axis=1), depth


def intrinsics(camera: Camera, rows: int, columns: int) -> Array:
    """Return the (3, 3) matrix of focal lengths and principal point in pixels, pixel centres at +0.5."""
    right, down = camera.focal / camera.aspect * columns / 2, camera.focal * rows / 2
    return np.array([[right, 0, columns / 2], [0, down, rows / 2], [0, 0, 1.0]])


def to_opencv(camera: Camera) -> Array:
    """Return the (4, 4) world-to-camera matrix of OpenCV and COLMAP (+x right, +y down, looks along +z)."""
    return np.asarray(np.linalg.inv(camera.pose @ FLIP_YZ), dtype=np.float64)


def from_opencv(world_to_camera: Array, fov: float, aspect: float = 1.0) -> Camera:
    """Return the camera of an OpenCV or COLMAP world-to-camera matrix, (3, 4) or (4, 4).

    Raises:
        ConfigError: the matrix has another shape, or is no rotation and translation.
    """
    matrix = np.asarray(world_to_camera, dtype=np.float64)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ConfigError(f"camera: got a matrix of shape {matrix.shape}, expected world to camera, (3, 4) or (4, 4)")
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ translation
    return Camera(pose @ FLIP_YZ, fov, aspect)


def from_colmap(quaternion: Sequence[float], translation: Sequence[float], fov: float, aspect: float = 1.0) -> Camera:
    """Return the camera of a line of COLMAP's images.txt: quaternion (w, x, y, z) and translation, world to camera.

    Raises:
        ConfigError: there are not four and three finite numbers, or the quaternion is 0.
    """
    numbers = np.asarray([*quaternion, *translation], dtype=np.float64)
    length = float(np.linalg.norm(quaternion))
    if len(quaternion) != 4 or len(translation) != 3 or not np.isfinite(numbers).all() or length == 0:
        raise ConfigError(
            f"camera: got the quaternion {list(quaternion)} and translation {list(translation)}, expected 4 finite "
            "numbers that are not all 0, and 3"
        )
    w, x, y, z = numbers[:4] / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return from_opencv(matrix, fov, aspect)


def to_colmap(camera: Camera) -> tuple[tuple[float, float, float, float], tuple[float, float, float]]:
    """Return the quaternion (w, x, y, z), w >= 0, and the translation of COLMAP, world to camera."""
    matrix = to_opencv(camera)
    m = matrix[:3, :3]
    symmetric = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
        ]
    )
    values, vectors = np.linalg.eigh(symmetric / 3.0)  # reads the lower triangle (Bar-Itzhack 2000)
    x, y, z, w = vectors[:, int(np.argmax(values))]
    sign = -1.0 if w < 0 else 1.0
    tx, ty, tz = matrix[:3, 3]
    return (float(sign * w), float(sign * x), float(sign * y), float(sign * z)), (float(tx), float(ty), float(tz))


def to_zero123(camera: Camera, reference: Camera) -> tuple[float, float, float]:
    """Return Zero123's relative angles: change of polar angle and azimuth in radians, and of the radius.

    Zero123 counts the polar angle from the zenith down, and the azimuth clockwise seen from above (arXiv 2303.11328;
    ashawkey/stable-dreamfusion issues 258 and 339 on the sign).

    Raises:
        ConfigError: a camera does not look at the centre with +z up, which these angles cannot say.
    """
    for one in (camera, reference):
        looking = look_at(one.azimuth, one.elevation, one.radius, one.fov).pose
        if np.abs(looking - one.pose).max() > 1e-3 * max(1.0, one.radius):
            raise ConfigError(
                f"zero123: got a camera at {one.position.round(3).tolist()} that does not look at the centre with +z "
                "up, expected cameras that do: these angles say nothing else. Convert to opengl, opencv or colmap"
            )
    azimuth = -math.radians(camera.azimuth - reference.azimuth)
    wrapped = (azimuth + math.pi) % (2 * math.pi) - math.pi
    return math.radians(reference.elevation - camera.elevation), wrapped, camera.radius - reference.radius


def from_zero123(polar: float, azimuth: float, radius: float, reference: Camera) -> Camera:
    """Return the camera of Zero123's relative angles (radians) and change of radius; the inverse of `to_zero123`."""
    return look_at(
        reference.azimuth - math.degrees(azimuth),
        reference.elevation - math.degrees(polar),
        reference.radius + radius,
        reference.fov,
        reference.aspect,
    )


def angle_between(first: Camera, second: Camera) -> float:
    """Return the angle in degrees between the directions from the centre to two cameras."""
    cosine = float(first.position @ second.position / (first.radius * second.radius))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
