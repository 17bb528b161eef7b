"""Rendering against closed forms: silhouettes, depth and normals of a box and a sphere."""

import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from lumina_3d.views.builder import load_surface
from lumina_3d.views.cameras import look_at, orbit, project
from lumina_3d.views.rendering import Renderer, Surface, check_memory, normalized, surface_of
from lumina_core.errors import ConfigError

pytest.importorskip("embreex")


def test_a_box_seen_from_the_front_has_the_silhouette_and_depth_of_its_face():
    camera = look_at(0, 0, 2, 60)
    renders = Renderer(trimesh.creation.box((1, 1, 1)))([camera], 64, samples=1)
    alpha = renders.rgba[0, ..., 3] > 0
    half = 0.5 / 1.5 * camera.focal * 32  # the front face stands at a distance of 1.5
    rows = np.flatnonzero(alpha.any(axis=1))
    assert (rows[0], rows[-1]) == (round(32 - half), round(32 + half) - 1)
    assert renders.depth[0][alpha] == pytest.approx(1.5, abs=1e-5)
    assert np.isinf(renders.depth[0][~alpha]).all()
    assert renders.normals[0][alpha] == pytest.approx(np.broadcast_to([1, 0, 0], (alpha.sum(), 3)), abs=1e-6)


def test_coverage_of_a_sphere_is_the_area_of_its_outline():
    camera, radius = look_at(30, 20, 3, 40), 0.5
    renders = Renderer(trimesh.creation.icosphere(5, radius))([camera], 128, samples=3)
    tangent = radius / math.sqrt(9 - radius**2) * camera.focal * 64
    assert renders.rgba[..., 3].sum() / 255 == pytest.approx(math.pi * tangent**2, rel=0.01)


def test_points_of_the_surface_are_where_the_camera_projects_them():
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    box.apply_translation((0.3, -0.2, 0.25))
    for camera in orbit(4, 15, 2.2, 40):
        alpha = Renderer(box)([camera], 64).rgba[0, ..., 3].astype(float)
        rows, columns = np.indices(alpha.shape) + 0.5
        center = [(alpha * axis).sum() / alpha.sum() for axis in (rows, columns)]
        assert center == pytest.approx(project(camera, np.array([[0.3, -0.2, 0.25]]), 64, 64)[0][0], abs=0.25)


def test_colours_come_from_faces_and_textures():
    box = trimesh.creation.box((1, 1, 1))
    box.visual.face_colors = [200, 30, 40, 255]
    flat = Renderer(box, shaded=False)([look_at(20, 20, 3, 40)], 16)
    assert tuple(flat.rgba[0, 8, 8]) == (200, 30, 40, 255)
    square = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], dtype=float)
    uv = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=float)
    texture = np.zeros((2, 2, 3))
    texture[0, 0] = (1, 0, 0)  # the upper left
    texture[1, 1] = (0, 0, 1)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    surface = Surface(square, faces, np.zeros((2, 3)), uv, texture)
    picture = Renderer(surface, shaded=False)([look_at(0, 0, 2, 40)], 16, samples=1).rgba[0]
    assert tuple(picture[2, 2, :3]) == (255, 0, 0)
    assert tuple(picture[13, 13, :3]) == (0, 0, 255)


def test_the_factor_of_a_gltf_material_multiplies_its_texture(tmp_path):
    box = trimesh.creation.box((1, 1, 1))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (4, 4), (200, 100, 50)), baseColorFactor=[255, 0, 255, 255]
    )
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(box.vertices), 2)), material=material)
    box.export(tmp_path / "box.glb")
    picture = Renderer(load_surface(tmp_path / "box.glb"), shaded=False)([look_at(20, 20, 3, 40)], 16)
    assert tuple(picture.rgba[0, 8, 8]) == (200, 0, 50, 255)


def test_needed_memory_is_reported():
    check_memory(16, 256, 2, available=2**30)
    for arguments in ((2, 4096, 8), (1024, 4096, 1)):
        with pytest.raises(ConfigError, match=r"need about .* GB of memory, expected at most 8\.0 GB"):
            check_memory(*arguments, available=2**33)


def test_the_light_is_fixed_in_the_world():
    top = [Renderer(trimesh.creation.box((1, 1, 0.1)))([look_at(a, 60, 2, 40)], 16).rgba[0, 8, 8] for a in (0, 90, 200)]
    assert all(tuple(color) == tuple(top[0]) for color in top)


def test_normalized_has_a_longest_side_of_one_at_the_centre():
    box = trimesh.creation.box((4, 2, 1))
    box.apply_translation((7, 0, 0))
    surface = normalized(surface_of(box))
    assert surface.vertices.max(axis=0) == pytest.approx([0.5, 0.25, 0.125])
    assert surface.vertices.min(axis=0) == pytest.approx([-0.5, -0.25, -0.125])


def test_degenerate_faces_are_not_hit_and_do_not_fail():
    surface = Surface(np.zeros((3, 3)), np.array([[0, 1, 2]]), np.ones((1, 3)))
    assert not Renderer(surface)([look_at(0, 0, 2, 40)], 8).rgba.any()
    with pytest.raises(ConfigError, match="some finite extent"):
        normalized(surface)


@pytest.mark.parametrize("vertices", [np.zeros((0, 3)), np.full((3, 3), np.nan)])
def test_meshes_without_usable_faces_are_refused(vertices):
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2]] if len(vertices) else np.zeros((0, 3), dtype=int), process=False)
    with pytest.raises(ConfigError, match="expected faces of finite vertices"):
        surface_of(mesh)
