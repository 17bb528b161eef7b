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
from lumina_3d.views.cameras import look_at, orbit, to_opencv
from lumina_3d.views.dataset import FamilyViews, StoredViews
from lumina_3d.views.metrics import hull_consistency, psnr, silhouettes
from lumina_3d.views.rendering import Renderer
from lumina_3d.views.request import ViewsRequest
from lumina_3d.views.scenes import HELD_OUT_RIGS, NEAR, radius_for, random_rig, render_views, to_views
from lumina_3d.views.store import ViewStore, object_files
from lumina_3d.views.task import Views
from lumina_3d.views.transforms import read_transforms, transforms_json
from lumina_core.errors import ConfigError

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


def test_examples_of_an_evaluation_are_complete_requests():
    config = FamilyViews.Config(
        families=("vase",),
        per_family=20,
        caption_dropout=1,
        caption_dropout_given=1,
        pose_dropout=1,
    )
    task, eval_set = Views(Views.Config()), FamilyViews(config).eval_set()
    for index in range(len(eval_set)):
        fields = eval_set.fields(index, None)
        example, request = fields["cameras"], ViewsRequest.read(dict(task.request_for(fields)), "example")
        (inputs,) = task.conditions(request)["cameras"]
        assert fields["caption"] and inputs.cameras == example.cameras and example.cameras[0].known
        assert len(inputs.pictures) == len(example.pictures) == 1
        assert eval_set.reference(index).shape == (4, 4, 64, 64)
        for made, given in zip(inputs.pictures, example.pictures, strict=True):
            assert (made - given).abs().max() < 0.02
        for made, given in zip(inputs.picture_cameras, example.picture_cameras, strict=True):
            assert made.pose == pytest.approx(given.pose)


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


@pytest.fixture
def stored(tmp_path):
    """A folder with one object of two pictures, as `lumina render` writes them."""
    folder = tmp_path / "objects" / "mug"
    folder.mkdir(parents=True)
    cameras = [look_at(a, 20, 2, 40) for a in (0, 90)]
    pictures = render_views(make_shape("mug", 0).mesh, cameras, 16)
    for name, content in object_files(pictures, cameras, "a mug", {}).items():
        (folder / name).write_bytes(content)
    return folder


def test_frames_may_leave_out_the_suffix(stored):
    content = (stored / "transforms.json").read_text().replace('"000.png"', '"./train/000"')
    (stored / "transforms.json").write_text(content)
    store = ViewStore(stored.parent, 40)
    assert store.num_pictures(0) == 2 and store.picture(0, 0).rgba.shape == (16, 16, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("transforms.json", b"{", "mug/transforms.json: got no valid JSON"),
        ("transforms.json", b"[]", "mug/transforms.json: got no list `frames`"),
        ("transforms.json", b"\xff", "mug/transforms.json: got a file that is no UTF-8"),
        ("transforms.json", None, "mug: got pictures without cameras"),
        ("000.png", None, "mug: got no file 000.png"),
        ("000.png", b"text", "mug/000.png: got no usable picture"),
        ("caption.txt", b"\xff\xfe", "mug/caption.txt: got a file that is no UTF-8"),
        ("000.npy", b"text", "mug: "),
        ("000.npy", np.zeros(3), "mug: "),
    ],
)
def test_damaged_stores_are_named(stored, name, content, message):
    if name == "000.npy":
        (stored / "transforms.json").unlink()
    if content is None:
        (stored / name).unlink()
    elif isinstance(content, bytes):
        (stored / name).write_bytes(content)
    else:
        np.save(stored / name, content)
    store = ViewStore(stored.parent, 40)
    with pytest.raises(ConfigError, match=message):
        store.cameras(0), store.picture(0, 0), store.caption(0)


LINE = "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"
HUGE = "v -1.7e308 0 0\nv 1.7e308 0 0\nv 0 1.7e308 0\nf 1 2 3\n"
FACE = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 {}\n"
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", LINE, "no area"),
        ("a.obj", HUGE, "finite extent"),
        ("a.ply", FACE.format(9), "faces of finite vertices"),
        ("a.ply", FACE.format(-1), "faces of finite vertices"),
        ("a.glb", "", r"a\.glb: cannot be read as \.glb"),
        ("a.ply", FACE.replace("face 1", "face 0").format(2), r"a\.ply: got no faces"),
    ],
)
def test_meshes_without_a_surface_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_surface(tmp_path / name)


def test_files_of_one_name_are_all_stored(lumina, tmp_path):
    folder, box = tmp_path / "in", trimesh.creation.box((1, 2, 1))
    folder.mkdir()
    for name in ("a.obj", "a.ply", "a-2.ply"):
        box.export(folder / name)
    assert lumina("render", folder, "--views", 2, "--size", 16, "--out", tmp_path / "out").status == 0
    assert len(ViewStore(tmp_path / "out", 40)) == 3


def test_objects_of_one_name_in_two_tar_files_stay_apart(lumina, tmp_path):
    for seed in (0, 1):
        out = tmp_path / str(seed)
        done = lumina(
            "render", "--family", "mug", "--objects", 1, "--views", 2, "--size", 16, "--seed", seed, "--out", out
        )
        assert done.status == 0
        (out / "views-00000.tar").rename(tmp_path / f"{seed}.tar")
    store = ViewStore(tmp_path, 40)
    assert len(store) == 2 and store.cameras(0) != store.cameras(1)


def test_a_caption_that_is_no_text_skips_its_mesh_and_leaves_no_empty_folder(lumina, tmp_path):
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "a.obj")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    result = lumina("render", tmp_path / "a.obj", "--views", 2, "--out", tmp_path / "out")
    assert result.status == 2 and "a.txt: got a file that is no UTF-8 text" in result.err
    assert not (tmp_path / "out").exists()


def test_missing_materials_and_textures_are_named(lumina, tmp_path):
    face = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl q\nf 1/1 2/2 3/3\n"
    (tmp_path / "a.obj").write_text("mtllib none.mtl\n" + face)
    (tmp_path / "b.obj").write_text("mtllib b.mtl\n" + face)
    (tmp_path / "b.mtl").write_text("newmtl q\nmap_Kd -s 1 1 1 none.png\nKd 1 0 0\n")
    result = lumina("render", tmp_path, "--views", 2, "--size", 16, "--out", tmp_path / "out", "--json")
    assert json.loads(result.out)["missing_textures"] == {"a": ["none.mtl"], "b": ["none.png"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "--family", "mug", "--elevation", 10), "--elevation: got it without --orbit"),
        (("render", "nothing.obj", "--objects", 3), "--objects: got it without --family"),
        (("cameras", "--convention", "opencv"), "--convention: got it without --read"),
        (("cameras", "--read", "a.json", "--views", 3), "--views: got it with --read"),
        (("cameras", "--elevation", "nan"), "elevation: got nan"),
    ],
)
def test_options_without_effect_are_refused(lumina, tmp_path, arguments, message):
    out = () if arguments[0] == "cameras" else ("--out", tmp_path / "out")
    result = lumina(*arguments, *out)
    assert result.status == 2 and message in result.err and result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_opencv_cameras_of_a_file_are_converted(lumina, tmp_path):
    content = transforms_json(orbit(4, 10), 64)
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])).tolist()
    (tmp_path / "a.json").write_text(json.dumps(content))
    result = lumina("cameras", "--read", tmp_path / "a.json", "--convention", "opencv", "--json")
    for camera, read in zip(orbit(4, 10), read_transforms(json.loads(result.out)["opengl"]), strict=True):
        assert read.pose == pytest.approx(camera.pose)
    (tmp_path / "a.json").write_text('{"frames": 3}')
    result = lumina("cameras", "--read", tmp_path / "a.json", "--convention", "opencv")
    assert "got no list `frames`" in result.err


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
