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


@pytest.mark.parametrize("elevation", [-89.9, 0, 89.9])
def test_zero123_returns_the_camera_up_to_the_pole(elevation):
    camera, reference = look_at(200, elevation, 2, 42), look_at(12, 5, 1.5, 42)
    assert from_zero123(*to_zero123(camera, reference), reference).pose == pytest.approx(camera.pose)


@pytest.mark.parametrize("elevation", [89.9, 90.0])
def test_other_conversions_return_the_camera_at_the_pole(elevation):
    pose = look_at(200, 89.9, 2, 42).pose
    if elevation == 90:
        pose = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    camera = Camera(pose, 42)
    assert from_opencv(to_opencv(camera)[:3], 42).pose == pytest.approx(pose, abs=1e-12)
    assert from_colmap(*to_colmap(camera), 42).pose == pytest.approx(pose, abs=1e-12)
    (read,) = read_transforms(transforms_json([camera], 64))
    assert read.pose == pytest.approx(pose, abs=1e-12)


def test_zero123_refuses_cameras_that_its_angles_cannot_say():
    reference = look_at(12, 5, 1.5, 42)
    rolled = Camera(reference.pose @ np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), 42)
    shifted = reference.moved(np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    for camera in (rolled, shifted):
        with pytest.raises(ConfigError, match="does not look at the centre"):
            to_zero123(camera, reference)


def test_the_azimuth_is_below_360():
    assert look_at(360, 20, 2, 40).azimuth == pytest.approx(0) and look_at(-1e-15, 20, 2, 40).azimuth < 360


@pytest.mark.parametrize(("fov", "aspect", "rows", "columns"), [(40, 1.5, 64, 64), (30, 0.6, 50, 30), (70, 2, 40, 90)])
def test_lenses_of_any_aspect_are_kept(fov, aspect, rows, columns):
    camera, point = look_at(10, 40, 2, fov, aspect), np.array([0.2, -0.1, 0.3])
    image = intrinsics(camera, rows, columns) @ (to_opencv(camera) @ [*point, 1])[:3]
    row, column = project(camera, point[None], rows, columns)[0][0]
    assert image[:2] / image[2] == pytest.approx([column, row])
    (read,) = read_transforms(transforms_json([camera], 64))
    assert (read.fov, read.aspect) == pytest.approx((fov, aspect))


@pytest.mark.parametrize(
    ("lens", "fov", "aspect"),
    [
        ({"fl_x": 100, "w": 160, "h": 100}, 53.130102, 1.6),
        ({"fl_x": 50, "fl_y": 100, "w": 160, "h": 100}, 53.130102, 3.2),
        ({"camera_angle_x": np.pi / 2}, 90, 1),
        ({"camera_angle_x": np.pi / 2, "w": 200, "h": 100}, 53.130102, 2),
        ({"camera_angle_y": np.pi / 2, "w": 200, "h": 100}, 90, 2),
        ({"camera_angle_x": np.pi / 2, "camera_angle_y": np.pi / 3}, 60, 3**0.5),
    ],
)
def test_fov_and_aspect_of_every_kind_of_lens(lens, fov, aspect):
    (camera,) = read_transforms({"frames": [{"transform_matrix": look_at(0, 20, 2, 40).pose[:3].tolist()}], **lens})
    assert (camera.fov, camera.aspect) == pytest.approx((fov, aspect))


def test_transforms_json_is_read_back(tmp_path):
    cameras = [look_at(10, 20, 2, 40), Camera(look_at(80, -5, 2, 40).pose, 40, known=False)]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(transforms_json(cameras, 64)))
    for camera, read in zip(cameras, read_transforms(path), strict=True):
        assert read.pose == pytest.approx(camera.pose)
        assert read.fov == pytest.approx(40) and read.known == camera.known


def test_poses_of_opencv_in_transforms_json_are_refused():
    content = transforms_json(orbit(4), 64)
    flip = np.diag([1, -1, -1, 1])
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ flip).tolist()
    with pytest.raises(ConfigError, match="look away from the centre"):
        read_transforms(content)


Y_UP = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("elevation", [-20, 0, 20, 60])
@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda camera: np.linalg.inv(camera.pose), "at the same place"),
        (to_opencv, "at the same place"),
        (lambda camera: Y_UP @ camera.pose, r"expected \+z up"),
        (lambda camera: camera.pose.T, "last row"),
    ],
)
def test_poses_of_other_conventions_are_refused(elevation, convert, message):
    cameras = orbit(6, elevation)
    content = transforms_json(cameras, 64)
    for frame, camera in zip(content["frames"], cameras, strict=True):
        frame["transform_matrix"] = convert(camera).tolist()
    with pytest.raises(ConfigError, match=message):
        read_transforms(content)


@pytest.mark.parametrize(
    "change",
    [{"cx": 10.0}, {"k1": 0.4}, {"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"w": 0}, {"h": -64}],
)
def test_lenses_that_are_no_centred_pinhole_are_refused(change):
    with pytest.raises(ConfigError, match="expected those of a centred pinhole"):
        read_transforms({**transforms_json(orbit(3), 64), **change})


@pytest.mark.parametrize(
    "convert",
    [
        lambda: from_colmap((0, 0, 0, 0), (0, 0, 1), 40),
        lambda: from_colmap((1, 0, 0), (0, 0, 1), 40),
        lambda: from_colmap((1, 0, 0, 0), (0, float("nan"), 1), 40),
        lambda: from_opencv(np.eye(3), 40),
        lambda: from_opencv(np.zeros((3, 4)), 40),
        lambda: Camera(np.eye(4), 40, 0),
        lambda: Camera(np.eye(4), 40, float("nan")),
    ],
)
def test_values_that_are_no_camera_are_refused(convert):
    with pytest.raises(ConfigError, match="camera: got"):
        convert()


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
