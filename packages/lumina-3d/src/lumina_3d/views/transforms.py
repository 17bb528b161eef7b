"""Files of cameras: transforms.json with the keys of nerfstudio, and RGBA pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumina_3d.views.cameras import Camera, intrinsics
from lumina_core.errors import ConfigError
from lumina_core.io import read_json

MAX_CAMERAS = 4096


def transforms_json(cameras: Sequence[Camera], size: int, paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of transforms.json: OpenGL camera-to-world matrices, intrinsics in pixels.

    Args:
        cameras: all of one FOV and aspect, or each frame gets its own intrinsics.
        size: rows and columns of the pictures in pixels.
        paths: file of each picture, relative to the JSON file; empty: frames without pictures.
    """
    shared = len({(camera.fov, camera.aspect) for camera in cameras}) == 1
    frames = []
    for index, camera in enumerate(cameras):
        frame: dict[str, Any] = {"transform_matrix": camera.pose.tolist()}
        if paths:
            frame = {"file_path": paths[index], **frame}
        frames.append(frame if shared else {**frame, **_intrinsics(camera, size)})
    top = _intrinsics(cameras[0], size) if shared else {}
    return {"camera_model": "OPENCV", **top, "convention": "OpenGL camera-to-world, +z up", "frames": frames}


def read_transforms(source: str | Path | Mapping[str, Any]) -> list[Camera]:
    """Read the cameras of a transforms.json with the keys of nerfstudio or of NeRF's Blender scenes.

    Raises:
        ConfigError: it cannot be read, has other keys, or its poses look as if they had another convention.
    """
    content, name = _load(source)
    frames = content.get("frames")
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_CAMERAS:
        raise ConfigError(f"{name}: got no list `frames` of 1 to {MAX_CAMERAS} cameras, expected nerfstudio's keys")
    cameras = [_read_frame(content, frame, f"{name} frame {index}") for index, frame in enumerate(frames)]
    away = [index for index, camera in enumerate(cameras) if camera.pose[:3, 2] @ camera.position < 0]
    if len(away) > len(cameras) / 2:
        raise ConfigError(
            f"{name}: got {len(away)} of {len(cameras)} cameras that look away from the centre, expected OpenGL poses "
            "(camera-to-world, looking along -z). Convert them: lumina cameras --read FILE --convention opencv"
        )
    return cameras


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


def _read_frame(content: Mapping[str, Any], frame: Any, name: str) -> Camera:
    if not isinstance(frame, Mapping) or "transform_matrix" not in frame:
        raise ConfigError(f"{name}: got no `transform_matrix`, expected a 4x4 camera-to-world matrix")
    values = {**content, **frame}
    try:
        pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        fov, aspect = _lens(values)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{name}: got no usable matrix and lens ({error}), expected numbers: fl_y and h, or camera_angle_x"
        ) from error
    try:
        return Camera(pose, fov, aspect)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _lens(values: Mapping[str, Any]) -> tuple[float, float]:
    """Return the vertical FOV in degrees and the aspect."""
    aspect = float(values["w"]) / float(values["h"]) if "w" in values and "h" in values else 1.0
    if "fl_y" in values:
        return math.degrees(2 * math.atan(float(values["h"]) / 2 / float(values["fl_y"]))), aspect
    if "fl_x" in values:
        return math.degrees(2 * math.atan(float(values["h"]) / 2 / float(values["fl_x"]))), aspect
    if "camera_angle_y" in values:
        return math.degrees(float(values["camera_angle_y"])), aspect
    angle = float(values["camera_angle_x"])
    if not 0 < angle < math.pi:  # the tangent repeats itself: 9 radians would be a lens of 156 degrees
        raise ValueError(f"camera_angle_x of {angle:g} radians")
    return math.degrees(2 * math.atan(math.tan(angle / 2) / aspect)), aspect


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
