"""Data sets of views: what is drawn, what is stored, and what is read like Objaverse's renderings."""

import json
import random
import tarfile

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lumina_3d.families.shapes import make_shape
from lumina_3d.views.builder import load_surface
from lumina_3d.views.camera_encoding import CameraBatch
from lumina_3d.views.cameras import look_at, to_opencv
from lumina_3d.views.dataset import FamilyViews, StoredViews
from lumina_3d.views.metrics import hull_consistency, psnr, silhouettes
from lumina_3d.views.rendering import Renderer
from lumina_3d.views.scenes import HELD_OUT_RIGS, NEAR, radius_for, random_rig, render_views, to_views

pytest.importorskip("embreex")


def test_an_example_depends_on_its_index_and_seed_alone():
    dataset = FamilyViews(FamilyViews.Config(per_family=2))
    first, second = (dataset.get(3, random.Random(5)) for _ in range(2))
    assert torch.equal(first["views"], second["views"]) and first["caption"] == second["caption"]
    assert not torch.equal(first["views"], dataset.get(3, random.Random(6))["views"][:, : first["views"].shape[1]])


def test_examples_hold_what_their_cameras_see():
    dataset = FamilyViews(FamilyViews.Config(per_family=1, num_views=(2,), num_given=(1,)))
    example = dataset.get(0, random.Random(1))
    inputs = example["cameras"]
    mesh = make_shape("chair", 0).mesh
    rendered = to_views(render_views(mesh, [*inputs.cameras, *inputs.picture_cameras], 64))
    assert torch.allclose(rendered[:, :2], example["views"], atol=1e-6)
    assert torch.allclose(rendered[:, 2], inputs.pictures[0], atol=1e-6)


def test_texts_pictures_and_poses_are_left_out_as_often_as_configured():
    config = FamilyViews.Config(
        families=("vase",), per_family=1, num_views=(1,), num_given=(0, 1), caption_dropout=0.1,
        caption_dropout_given=0.6, pose_dropout=0.3,
    )  # fmt: skip
    dataset = FamilyViews(config)
    examples = [dataset.get(0, random.Random(seed)) for seed in range(600)]
    given = [bool(example["cameras"].pictures) for example in examples]
    assert np.mean(given) == pytest.approx(0.5, abs=0.07)
    for flag, share in ((False, 0.1), (True, 0.6)):
        empty = [e["caption"] == "" for e, g in zip(examples, given, strict=True) if g == flag]
        assert np.mean(empty) == pytest.approx(share, abs=0.08)
    unknown = [not example["cameras"].cameras[0].known for example in examples]
    assert np.mean(unknown) == pytest.approx(0.3, abs=0.06)
    positions = {p for example in examples for p in example["cameras"].positions}
    assert positions == set(range(16))


def test_sizes_are_those_of_the_examples():
    dataset = FamilyViews(FamilyViews.Config(families=("mug",), per_family=1))
    for seed in range(10):
        assert dataset.size(0, random.Random(seed)) == tuple(dataset.get(0, random.Random(seed))["views"].shape[1:])


def test_held_out_pairs_of_fov_and_radius_are_never_drawn():
    rng = np.random.default_rng(0)
    (low, high), (small, large) = HELD_OUT_RIGS
    rigs = [random_rig(rng) for _ in range(3000)]
    fills = [(rig.fov, (rig.radius - NEAR) * np.tan(np.radians(rig.fov) / 2)) for rig in rigs]
    assert not any(low < fov < high and small < fill < large for fov, fill in fills)
    assert any(low < fov < high for fov, _ in fills)


@pytest.fixture
def shards(lumina, tmp_path):
    out = tmp_path / "shards"
    result = lumina("render", "--family", "chair", "--family", "mug", "--objects", 2, "--views", 6, "--out", out,
                    "--per-shard", 3, "--depth")  # fmt: skip
    assert result.status == 0, result.err
    return out


def test_shards_are_read_with_their_cameras_and_captions(shards):
    assert [path.name for path in sorted(shards.iterdir())] == ["views-00000.tar", "views-00001.tar"]
    dataset = StoredViews(StoredViews.Config(folder=shards, num_views=(3,), num_given=(1,), caption_dropout_given=0))
    assert len(dataset) == 4
    example = dataset.get(1, random.Random(0))
    assert "mug" in example["caption"]
    views, inputs = example["views"], example["cameras"]
    truth = to_views(render_views(make_shape("mug", 0).mesh, inputs.cameras, 64))
    assert float(psnr(views.movedim(1, 0), truth.movedim(1, 0)).min()) > 40
    masks = silhouettes(views.movedim(1, 0))[None]
    assert float(hull_consistency(masks, CameraBatch.of([list(inputs.cameras)])).min()) > 0.9


def test_depth_and_normals_lie_next_to_the_pictures(shards):
    with tarfile.open(sorted(shards.iterdir())[0]) as archive:
        arrays = dict(np.load(archive.extractfile("chair-00000/depth.npz")))
        picture = np.asarray(Image.open(archive.extractfile("chair-00000/000.png")))
    hit = picture[..., 3] == 255
    assert np.isfinite(arrays["depth"][0][hit]).all() and np.isinf(arrays["depth"][0][picture[..., 3] == 0]).all()
    assert np.linalg.norm(arrays["normals"][0][hit].astype(float), axis=-1) == pytest.approx(1, abs=0.01)


def test_renderings_in_the_style_of_objaverse_are_read(tmp_path):
    mesh, cameras = make_shape("sofa", 0).mesh, [look_at(a, 20, 2, 49.1) for a in (0, 100, 220)]
    folder = tmp_path / "objects" / "0a1b"
    folder.mkdir(parents=True)
    flip = np.diag([1, -1, -1, 1])
    for index, (picture, camera) in enumerate(zip(render_views(mesh, cameras, 64), cameras, strict=True)):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
        np.save(folder / f"{index:03d}.npy", (flip @ to_opencv(camera))[:3])  # Blender's axes, world to camera
    dataset = StoredViews(StoredViews.Config(folder=tmp_path / "objects", num_views=(2,), num_given=(1,)))
    for stored, camera in zip(dataset.store.cameras(0), cameras, strict=True):
        assert stored.pose == pytest.approx(camera.pose)
    assert dataset.store.caption(0) == "0a1b"


def test_files_that_cannot_be_rendered_are_skipped_and_named(lumina, tmp_path):
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "box.ply")
    (tmp_path / "broken.obj").write_text("v 0 0 nan\n")
    result = lumina("render", tmp_path, "--views", 2, "--out", tmp_path / "out", "--json")
    report = json.loads(result.out)
    assert report["objects"] == 1 and list(report["skipped"]) == ["broken"]
    again = lumina("render", tmp_path, "--views", 2, "--out", tmp_path / "out")
    assert again.status != 0 and "not an empty folder" in again.err


def test_files_with_y_up_are_turned(tmp_path):
    box = trimesh.creation.box((0.2, 1.0, 0.4))  # tall along y
    box.export(tmp_path / "box.obj")
    box.export(tmp_path / "box.stl")
    turned, kept = load_surface(tmp_path / "box.obj"), load_surface(tmp_path / "box.stl")
    assert np.ptp(turned.vertices, axis=0) == pytest.approx([0.4, 0.2, 1.0])
    assert np.ptp(kept.vertices, axis=0) == pytest.approx([0.2, 1.0, 0.4])


def test_the_default_camera_sees_whole_objects():
    for family in ("table", "car", "vase"):
        camera = look_at(35, 20, radius_for(40), 40)
        alpha = Renderer(make_shape(family, 0).mesh)([camera], 64).rgba[0, ..., 3]
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert not border.any() and alpha.max() == 255
