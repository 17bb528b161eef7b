"""Files of point clouds: PLY, NPZ, OBJ and meshes; normals."""

from __future__ import annotations

import random

import numpy as np
import pytest
import trimesh

from lumina_3d.points.cloud_io import Cloud, encode_cloud, estimate_normals, read_cloud
from lumina_3d.points.dataset import CloudFolder
from lumina_3d.points.normalize import center_and_scale
from lumina_3d.views.builder import load_surface
from lumina_core.errors import ConfigError

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".obj"])
@pytest.mark.parametrize("ascii", [False, True])
def test_points_are_read_back_bit_for_bit(tmp_path, suffix, ascii):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_cloud(Cloud(POINTS.astype(float)), suffix, {"prompt": "a\nb, ü"}, ascii))
    assert np.array_equal(read_cloud(path).points.astype(np.float32), POINTS)


@pytest.mark.parametrize("ascii", [False, True])
def test_other_programs_read_the_ply(tmp_path, ascii):
    path = tmp_path / "a.ply"
    normals = np.tile([[0.0, 0, 1]], (50, 1))
    path.write_bytes(encode_cloud(Cloud(POINTS.astype(float), normals), ".ply", {}, ascii))
    loaded = trimesh.load(path)
    assert np.allclose(loaded.vertices, POINTS)
    assert np.allclose(read_cloud(path).normals, normals)


@pytest.mark.parametrize("suffix", ["obj", "stl", "off", "glb", "ply"])
def test_meshes_are_sampled_by_area(tmp_path, suffix):
    trimesh.creation.box((1, 1, 4)).export(tmp_path / f"box.{suffix}")
    points = read_cloud(tmp_path / f"box.{suffix}", 4000).points
    assert points.shape == (4000, 3)
    long_axis = 0 if suffix in ("obj", "glb") else 2  # their front, +z, is turned to +x
    assert np.ptp(points, axis=0).argmax() == long_axis
    caps = (np.abs(np.abs(points[:, long_axis]) - 2) < 1e-6).mean()
    assert caps == pytest.approx(2 / 18, abs=0.025)
    assert np.array_equal(points, read_cloud(tmp_path / f"box.{suffix}", 4000).points)


def test_clouds_and_views_turn_a_mesh_alike(tmp_path):
    trimesh.creation.box((0.2, 1.0, 0.4)).export(tmp_path / "tall.glb")
    points, surface = read_cloud(tmp_path / "tall.glb", 4000).points, load_surface(tmp_path / "tall.glb")
    assert np.ptp(points, axis=0) == pytest.approx(np.ptp(surface.vertices, axis=0), abs=0.01)
    assert np.ptp(points, axis=0).argmax() == 2


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_giant_and_tiny_meshes_are_sampled_by_area(tmp_path, scale):
    box = trimesh.creation.box((1, 1, 4))
    lines = ["v " + " ".join(f"{x * scale:.9e}" for x in vertex) for vertex in box.vertices]
    lines += ["f " + " ".join(str(k + 1) for k in face) for face in box.faces]
    (tmp_path / "box.obj").write_text("\n".join(lines))
    points = read_cloud(tmp_path / "box.obj", 4000).points / scale
    assert (np.abs(np.abs(points[:, 0]) - 2) < 1e-6).mean() == pytest.approx(2 / 18, abs=0.025)


@pytest.mark.parametrize("index", [9, -1])
def test_faces_of_vertices_that_do_not_exist_are_refused(tmp_path, index):
    header = CUT_PLY.replace(b"999", b"4").partition(b"end_header")[0]
    faces = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    (tmp_path / "a.ply").write_bytes(header + faces + b"3 0 1 %d\n" % index)
    with pytest.raises(ConfigError, match=r"a\.ply: got faces of vertex .*expected 0 to 3"):
        read_cloud(tmp_path / "a.ply")


def test_normals_that_do_not_fit_the_points_are_refused(tmp_path):
    for normals in (np.zeros((4, 3)), np.full((50, 3), np.nan)):
        np.savez(tmp_path / "a.npz", points=POINTS, normals=normals)
        with pytest.raises(ConfigError, match=r"a\.npz: got normals of shape"):
            read_cloud(tmp_path / "a.npz", 10)


def test_large_clouds_are_thinned_by_a_seed(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    thin = read_cloud(tmp_path / "a.npy", 10).points
    assert len(np.unique(thin, axis=0)) == 10
    assert {tuple(row) for row in thin} <= {tuple(row) for row in POINTS.astype(float)}


CUT_PLY = b"""ply
format ascii 1.0
element vertex 999
property float x
property float y
property float z
end_header
0 0 0
1 1 1
"""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\n", "a.ply"),
        ("a.obj", b"", "a.obj"),
        ("a.txt", b"1 2 3", "expected one of"),
        ("a.npz", b"not a zip", "a.npz"),
        ("a.stl", b"solid x\nendsolid x\n", "a.stl"),
        ("cut.ply", CUT_PLY, "2 of 999 points"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_cloud(tmp_path / name)


def test_empty_flat_and_infinite_clouds_are_refused(tmp_path):
    for values, message in (
        (np.zeros((0, 3)), "at least 1 point"),
        (np.full((4, 3), np.inf), "not finite"),
        (np.zeros((4, 2)), r"\(N, 3\)"),
        (np.zeros((4, 3), dtype=complex), "a.npz: got numbers of the type complex128"),
    ):
        np.savez(tmp_path / "a.npz", points=values)
        with pytest.raises(ConfigError, match=message):
            read_cloud(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", vertices=POINTS)
    with pytest.raises(ConfigError, match="expected `points`"):
        read_cloud(tmp_path / "b.npz")
    degenerate = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    degenerate.export(tmp_path / "c.ply")
    with pytest.raises(ConfigError, match="no area"):
        read_cloud(tmp_path / "c.ply")
    with pytest.raises(ConfigError, match="some finite extent"):
        center_and_scale(np.ones((4, 3)))
    for points in (np.zeros((0, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(ConfigError, match="at least 1 point, all finite"):
            center_and_scale(points)


def test_a_bad_pickle_is_not_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"a\.npy"):
        read_cloud(tmp_path / "a.npy")


def test_normals_of_a_sphere_point_outwards():
    points = np.random.default_rng(1).normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    agreement = (estimate_normals(points) * points).sum(axis=1)
    assert np.median(agreement) > 0.995 and agreement.min() > 0.9
    with pytest.raises(ConfigError, match="at least 3"):
        estimate_normals(points[:2])


def test_a_caption_that_is_no_text_is_named(tmp_path):
    (tmp_path / "mug").mkdir()
    np.save(tmp_path / "mug" / "a.npy", POINTS)
    dataset = CloudFolder(CloudFolder.Config(folder=tmp_path))
    assert dataset.get(0, random.Random(0))["caption"] == "mug"
    (tmp_path / "mug" / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.txt: got a file that is no UTF-8 text"):
        dataset.get(0, random.Random(0))


def test_points_of_a_file_are_drawn_once_where_it_has_enough(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    for count, distinct in ((40, 40), (50, 50), (200, None)):
        dataset = CloudFolder(CloudFolder.Config(folder=tmp_path, count=count))
        points = dataset.get(0, random.Random(0))["points"]
        assert points.shape == (3, count)
        assert distinct is None or len(np.unique(points.numpy(), axis=1).T) == distinct
    np.save(tmp_path / "a.npy", np.ones((9, 3)))
    with pytest.raises(ConfigError, match=r"a\.npy: points: got a box of side 0"):
        CloudFolder(CloudFolder.Config(folder=tmp_path)).get(0, random.Random(0))


def test_normalization_fills_the_box():
    unit = center_and_scale(POINTS * 3 + 7)
    low, high = unit.min(axis=0), unit.max(axis=0)
    assert (high - low).max() == pytest.approx(2) and low + high == pytest.approx(0, abs=1e-12)
