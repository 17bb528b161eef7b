"""Cameras: the convention, projection against rays, and conversion from and to other conventions."""

import json

import numpy as np
import pytest

from lumina_3d.views.cameras import (
    Camera,
    angle_between,
    from_colmap,
    from_opencv,
    from_zero123,
    intrinsics,
    look_at,
    orbit,
    project,
    rays,
    to_colmap,
    to_opencv,
    to_zero123,
)
from lumina_3d.views.transforms import read_transforms, transforms_json
from lumina_core.errors import ConfigError


def test_the_front_camera_stands_on_x_and_sees_y_to_the_right_and_z_up():
    camera = look_at(0, 0, 2, 60)
    assert camera.position == pytest.approx([2, 0, 0])
    pixels, depth = project(camera, np.array([[0, 0.1, 0], [0, 0, 0.1], [0, 0, 0]]), 100, 100)
    assert pixels[0][1] > 50 and pixels[0][0] == pytest.approx(50)  # +y is right
    assert pixels[1][0] < 50 and pixels[1][1] == pytest.approx(50)  # +z is up: a smaller row
    assert depth == pytest.approx([2, 2, 2])


def test_azimuth_turns_counter_clockwise_seen_from_above():
    assert look_at(90, 0, 1, 40).position == pytest.approx([0, 1, 0], abs=1e-12)
    assert look_at(0, 90 - 0.1, 1, 40).position[2] == pytest.approx(1, abs=1e-5)
    camera = look_at(123, 34, 1.7, 40)
    assert (camera.azimuth, camera.elevation, camera.radius) == pytest.approx((123, 34, 1.7))


def test_a_ray_hits_the_pixel_that_its_points_project_to():
    camera = look_at(33, 20, 2.5, 35, aspect=1.5)
    origins, directions = rays(camera, 8, 12)
    for row, column in ((0, 0), (3, 7), (7, 11)):
        point = origins[row, column] + 1.9 * directions[row, column]
        pixel, _ = project(camera, point[None], 8, 12)
        assert pixel[0] == pytest.approx([row + 0.5, column + 0.5])


def test_intrinsics_project_as_the_camera_does():
    camera, point = look_at(10, 40, 2, 50), np.array([0.2, -0.1, 0.3])
    local = to_opencv(camera) @ [*point, 1]
    image = intrinsics(camera, 64, 64) @ local[:3]
    row, column = project(camera, point[None], 64, 64)[0][0]
    assert image[:2] / image[2] == pytest.approx([column, row])


@pytest.mark.parametrize("index", range(8))
def test_conversions_return_the_same_camera(index):
    camera = orbit(8, elevation=-30 + 10 * index, radius=1 + index / 3, fov=42)[index]
    assert from_opencv(to_opencv(camera), 42).pose == pytest.approx(camera.pose)
    assert from_colmap(*to_colmap(camera), 42).pose == pytest.approx(camera.pose)
    reference = look_at(12, 5, 1.5, 42)
    assert from_zero123(*to_zero123(camera, reference), reference).pose == pytest.approx(camera.pose)


def test_opencv_looks_along_z_with_y_down():
    matrix = to_opencv(look_at(0, 0, 2, 60))
    assert matrix @ [0, 0, 0, 1] == pytest.approx([0, 0, 2, 1])  # the centre lies in front, at +z
    assert (matrix @ [0, 0, 0.5, 1])[1] < 0  # up is -y


def test_zero123_counts_azimuth_clockwise_and_the_polar_angle_down():
    polar, azimuth, _ = to_zero123(look_at(10, 30, 2, 40), look_at(0, 20, 2, 40))
    assert azimuth == pytest.approx(-np.radians(10))
    assert polar == pytest.approx(-np.radians(10))


def test_transforms_json_is_read_back(tmp_path):
    cameras = [look_at(10, 20, 2, 40), look_at(80, -5, 2, 40)]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(transforms_json(cameras, 64)))
    for camera, read in zip(cameras, read_transforms(path), strict=True):
        assert read.pose == pytest.approx(camera.pose)
        assert read.fov == pytest.approx(40)


def test_poses_of_opencv_in_transforms_json_are_refused():
    content = transforms_json(orbit(4), 64)
    flip = np.diag([1, -1, -1, 1])
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ flip).tolist()
    with pytest.raises(ConfigError, match="look away from the centre"):
        read_transforms(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no list `frames`"),
        ({"frames": [{}]}, "no `transform_matrix`"),
        ({"frames": [{"transform_matrix": [[1]]}], "camera_angle_x": 0.7}, "finite 4x4"),
        ({"frames": [{"transform_matrix": np.eye(4).tolist()}]}, "no usable matrix and lens"),
        ({"frames": [{"transform_matrix": (2 * np.eye(4)).tolist()}], "camera_angle_x": 0.7}, "not orthonormal"),
    ],
)
def test_broken_transforms_are_named(content, message):
    with pytest.raises(ConfigError, match=message):
        read_transforms(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 95, 2, 40), "beyond the pole"), ((0, 0, 0, 40), "radius"), ((float("nan"), 0, 1, 40), "finite")],
)
def test_impossible_cameras_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        look_at(*arguments)


def test_a_mirrored_pose_is_refused():
    with pytest.raises(ConfigError, match="right-handed"):
        Camera(np.diag([-1.0, 1, 1, 1]), 40)


def test_angle_between_two_cameras():
    assert angle_between(look_at(0, 0, 1, 40), look_at(60, 0, 3, 40)) == pytest.approx(60)
