"""Files of cameras: transforms.json with the keys of nerfstudio, and RGBA pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumina_3d.views.cameras import FLIP_YZ, Array, Camera, intrinsics
from lumina_core.errors import ConfigError
from lumina_core.io import read_json

MAX_CAMERAS = 4096
MAX_DISTORTION, MAX_OFF_CENTER = 0.1, 0.05
"""Largest coefficient of distortion, and shift of the principal point in sides of the picture, that are ignored."""


def transforms_json(cameras: Sequence[Camera], size: int, paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of transforms.json: OpenGL camera-to-world matrices, intrinsics in pixels.

    Args:
        cameras: all of one FOV and aspect, or each frame gets its own intrinsics; one that is not known is marked.
        size: rows and columns of the pictures in pixels.
        paths: file of each picture, relative to the JSON file; empty: frames without pictures.
    """
    shared = len({(camera.fov, camera.aspect) for camera in cameras}) == 1
    frames = []
    for index, camera in enumerate(cameras):
        frame: dict[str, Any] = {"transform_matrix": camera.pose.tolist()}
        if not camera.known:
            frame["known"] = False
        if paths:
            frame = {"file_path": paths[index], **frame}
        frames.append(frame if shared else {**frame, **_intrinsics(camera, size)})
    top = _intrinsics(cameras[0], size) if shared else {}
    return {"camera_model": "OPENCV", **top, "convention": "OpenGL camera-to-world, +z up", "frames": frames}


def read_transforms(
    source: str | Path | Mapping[str, Any], convention: str = "opengl", check_convention: bool = True
) -> list[Camera]:
    """Read the cameras of a transforms.json with the keys of nerfstudio or of NeRF's Blender scenes.

    Args:
        source: file, or its content.
        convention: of the cameras' axes, opengl or opencv; the matrices are camera-to-world.
        check_convention: whether poses that look as if they had another convention are refused.

    Raises:
        ConfigError: it cannot be read, has other keys, a lens that is no centred pinhole, or its poses look as if they
            had another convention.
    """
    content, name = _load(source)
    frames = content.get("frames")
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_CAMERAS:
        raise ConfigError(f"{name}: got no list `frames` of 1 to {MAX_CAMERAS} cameras, expected nerfstudio's keys")
    axes = FLIP_YZ if convention == "opencv" else np.eye(4)
    cameras = [_read_frame(content, frame, axes, f"{name} frame {index}") for index, frame in enumerate(frames)]
    if check_convention:
        _check_convention(cameras, convention, name)
    return cameras


def _check_convention(cameras: Sequence[Camera], convention: str, name: str) -> None:
    """Raise ConfigError if poses look as if they were world-to-camera, of OpenCV's axes, or of a world with +y up."""
    poses = np.stack([camera.pose for camera in cameras])
    places, axes = poses[:, :3, 3], poses[:, :3, :3]
    if (np.ptp(places, axis=0) < 1e-6 * np.abs(places).max()).all() and np.ptp(axes, axis=0).max() > 0.1:
        raise ConfigError(
            f"{name}: got {len(cameras)} cameras at the same place that look in different directions, expected "
            "camera-to-world matrices. Invert them if they are world-to-camera."
        )
    away = [index for index, camera in enumerate(cameras) if camera.pose[:3, 2] @ camera.position < 0]
    if len(away) > len(cameras) / 2:
        raise ConfigError(
            f"{name}: got {len(away)} of {len(cameras)} cameras that look away from the centre as {convention} poses, "
            "expected camera-to-world matrices. Convert them: lumina cameras --read FILE --convention "
            f"{'opencv' if convention == 'opengl' else 'opengl'}"
        )
    # the axis to the right of a camera that is not tilted lies in the plane of the horizon
    tilt = (axes[:, :, 0] ** 2).mean(axis=0)
    if len(cameras) > 2 and tilt[1] < 0.01 and tilt[2] > 0.1:
        raise ConfigError(
            f"{name}: got cameras whose horizon is the plane of x and z, expected +z up. Turn the world: "
            "(x, y, z) to (z, x, y)."
        )


def _load(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, "transforms"
    path = Path(source)
    try:
        content = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: got no valid JSON, expected transforms.json") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {type(content).__name__}, expected an object with `frames`")
    return content, path.name


def _read_frame(content: Mapping[str, Any], frame: Any, axes: Array, name: str) -> Camera:
    if not isinstance(frame, Mapping) or "transform_matrix" not in frame:
        raise ConfigError(f"{name}: got no `transform_matrix`, expected a 4x4 camera-to-world matrix")
    values = {**content, **frame}
    try:
        pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        if pose.shape == (3, 4):
            pose = np.concatenate([pose, [[0, 0, 0, 1]]])
        fov, aspect = _lens(values)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{name}: got no usable matrix and lens ({error}), expected those of a centred pinhole: fl_y and h, or "
            "camera_angle_x"
        ) from error
    try:
        pose = pose @ axes if pose.shape == (4, 4) else pose
        return Camera(pose, fov, aspect, known=frame.get("known") is not False)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _lens(values: Mapping[str, Any]) -> tuple[float, float]:
    """Return the vertical FOV in degrees, and the aspect: the ratio of the extents that the lens sees."""
    if "fisheye" in str(values.get("camera_model", "")).lower() or values.get("is_fisheye"):
        raise ValueError("a fisheye lens; undistort the pictures")
    for key in ("k1", "k2", "k3", "k4", "p1", "p2"):
        if abs(float(values.get(key, 0))) > MAX_DISTORTION:
            raise ValueError(f"a distorted lens, {key} {values[key]}; undistort the pictures")
    sides = {key: float(values[key]) for key in ("w", "h") if key in values}
    if not all(side > 0 for side in sides.values()):
        raise ValueError(f"a picture of the sides {sides}")
    for center, side in (("cx", "w"), ("cy", "h")):
        if center in values and side in sides and abs(float(values[center]) / sides[side] - 0.5) > MAX_OFF_CENTER:
            raise ValueError(f"{center} {values[center]} of {side} {values[side]}; crop the pictures about it")
    aspect = sides["w"] / sides["h"] if len(sides) == 2 else 1.0
    half = {}
    for axis, side in (("x", "w"), ("y", "h")):
        if f"fl_{axis}" in values:
            half[axis] = sides[side] / 2 / float(values[f"fl_{axis}"])
        elif f"camera_angle_{axis}" in values:
            angle = float(values[f"camera_angle_{axis}"])
            if not 0 < angle < math.pi:  # the tangent repeats itself: 9 radians would be a lens of 156 degrees
                raise ValueError(f"camera_angle_{axis} of {angle:g} radians")
            half[axis] = math.tan(angle / 2)
    if "y" not in half:  # square pixels
        half["y"] = half["x"] / aspect
    return math.degrees(2 * math.atan(half["y"])), half.get("x", half["y"] * aspect) / half["y"]


def _intrinsics(camera: Camera, size: int) -> dict[str, Any]:
    matrix = intrinsics(camera, size, size)
    return {
        "fl_x": matrix[0, 0],
        "fl_y": matrix[1, 1],
        "cx": matrix[0, 2],
        "cy": matrix[1, 2],
        "w": size,
        "h": size,
    }
