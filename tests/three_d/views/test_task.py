"""Requests for views, and what they write."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_3d.views.cameras import Camera, look_at, orbit
from lumina_3d.views.request import ViewsRequest, cameras_of
from lumina_3d.views.task import Views
from lumina_3d.views.transforms import read_transforms, transforms_json
from lumina_core import Pipeline
from lumina_core.errors import ConfigError
from lumina_core.testing import check_component


@pytest.fixture(scope="module")
def pipe(tiny_views):
    return Pipeline.from_pretrained(tiny_views)


@pytest.fixture
def picture(tmp_path):
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[20:50, 15:45] = (200, 40, 40, 255)
    Image.fromarray(rgba).save(tmp_path / "sofa.png")
    return tmp_path / "sofa.png"


def test_views_of_a_prompt_with_their_cameras(pipe):
    output = pipe("a red sofa", views=3, steps=1, seed=4)
    assert [image.size for image in output.views[0]] == [(64, 64)] * 3
    assert output.views[0][0].mode == "RGBA"
    assert [camera.azimuth for camera in output.cameras[0]] == pytest.approx([0, 120, 240])


def test_a_picture_alone_a_text_alone_and_both_differ(pipe, picture):
    options = {"views": 2, "steps": 1, "guidance_scale": 1}
    results = [
        pipe("a chair", **options)[0].data,
        pipe(image=str(picture), **options)[0].data,
        pipe("a chair", image=str(picture), **options)[0].data,
        pipe("a chair", image=str(picture), image_azimuth=90, **options)[0].data,
    ]
    for first in range(4):
        for second in range(first):
            assert not torch.allclose(results[first], results[second], atol=1e-3)


def test_requests_of_several_counts_share_a_batch(pipe, picture):
    requests = [
        pipe.make_request(prompt="a chair", views=3, steps=1, seed=1),
        pipe.make_request(image=str(picture), views=2, steps=1, seed=2),
    ]
    together = pipe(requests)
    for request, result in zip(requests, together, strict=True):
        assert torch.allclose(pipe([request])[0].data, result.data, atol=2e-4)


def test_permuted_cameras_and_noise_give_permuted_views(pipe):
    from lumina_core.sampling.inputs import PrecomputedInputs

    noise = torch.randn(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    order, cameras = [2, 0, 1], orbit(3)
    first = pipe("a sofa", cameras=cameras, steps=2, inputs=PrecomputedInputs(noise=noise))[0].data
    permuted = [cameras[k] for k in order]
    second = pipe("a sofa", cameras=permuted, steps=2, inputs=PrecomputedInputs(noise=noise[:, :, order]))[0].data
    assert (first[:, order] - second).abs().max() < 1e-4


def test_the_command_writes_a_sheet_a_gif_and_pictures_with_cameras(lumina, tiny_views, tmp_path, picture):
    out = tmp_path / "views.png"
    lumina(
        "views", "a red sofa", "--image", picture, "--views", 3, "--elevation", 10, "--out", out, "--model", tiny_views,
        "--turn", "auto", "--transforms", "auto",
    )  # fmt: skip
    sheet = Image.open(out)
    assert sheet.size == (3 * 66 - 2, 64)
    metadata = json.loads(sheet.text["lumina"])
    assert metadata["image"][0]["name"] == "sofa.png" and metadata["elevation"] == 10
    assert Image.open(tmp_path / "views.gif").n_frames == 3
    content = json.loads((tmp_path / "views.json").read_text())
    assert [frame["file_path"] for frame in content["frames"]] == [f"views-views/00{k}.png" for k in range(3)]
    for frame, view, camera in zip(content["frames"], range(3), orbit(3, 10), strict=True):
        single = Image.open(tmp_path / frame["file_path"])
        assert single.mode == "RGBA"
        assert np.array_equal(np.asarray(single), np.asarray(sheet)[:, view * 66 : view * 66 + 64])
        assert np.array(frame["transform_matrix"])[:3, :3] == pytest.approx(camera.pose[:3, :3])
    assert cameras_of(metadata)[1].azimuth == pytest.approx(120)


def test_cameras_of_a_file_are_used_and_kept_in_the_metadata(pipe, tmp_path):
    cameras = [look_at(15, 10, 2.5, 35), look_at(200, 30, 2.5, 35)]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(transforms_json(cameras, 64)))
    result = pipe("a chair", cameras=str(path), steps=1)[0]
    metadata = json.loads(json.dumps(dict(result.metadata)))
    for camera, kept in zip(cameras, cameras_of(metadata), strict=True):
        assert kept.pose == pytest.approx(camera.pose)
    result.task.write_sidecar("transforms", result.data, tmp_path / "out.json", metadata)
    assert read_transforms(tmp_path / "out.json")[1].azimuth == pytest.approx(200)


@pytest.mark.parametrize("names", [("000.png",), ("000.png", "mine.txt")])
def test_a_folder_of_pictures_is_replaced_on_request_alone(lumina, tiny_views, tmp_path, names):
    folder = tmp_path / "a-views"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    command = ("views", "a chair", "--views", 2, "--out", tmp_path / "a.png", "--model", tiny_views, "--steps", 1)
    refused = lumina(*command, "--transforms", "auto")
    assert refused.status == 2 and "a-views" in refused.err and refused.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a-views"]
    done = lumina(*command, "--transforms", "auto", "--overwrite")
    if len(names) == 1:
        assert done.status == 0 and Image.open(folder / "000.png").size == (64, 64)
    else:
        assert done.status == 2 and "mine.txt" in done.err and (folder / "000.png").read_text() == "mine"


def test_the_cameras_of_metadata_may_be_requested_again(pipe):
    cameras = [look_at(0, 15, 2, 40, 1.5), look_at(90, 15, 2, 40, 1.5)]
    first = pipe("a chair", cameras=cameras, steps=1)[0]
    again = pipe("a chair", cameras=json.loads(json.dumps(first.metadata["cameras"])), steps=1)[0]
    assert torch.allclose(first.data, again.data, atol=1e-5)


def test_cameras_that_look_away_are_written_as_they_were_requested(pipe, tmp_path):
    turned = Camera(look_at(30, 0, 2, 40).pose @ np.diag([-1.0, 1, -1, 1]), 40)
    result = pipe("a chair", cameras=[turned], steps=1)[0]
    result.task.write_sidecar("transforms", result.data, tmp_path / "out.json", result.metadata)
    assert cameras_of(result.metadata)[0].pose == pytest.approx(turned.pose)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "got none and no image"),
        ({"prompt": "  "}, "got none and no image"),
        ({"prompt": "x", "views": 0}, "views"),
        ({"prompt": "x", "views": 65}, "views"),
        ({"prompt": "x", "elevation": 91}, "elevation"),
        ({"prompt": "x", "azimuths": "0,90,0"}, "same pose for the views 0 and 2"),
        ({"prompt": "x", "azimuths": "0,360"}, "same pose for the views 0 and 1"),
        ({"prompt": "x", "azimuths": "0,90", "start": 30}, "start: got 30 with azimuths"),
        ({"prompt": "x", "cameras": 3}, "cameras: got 3, expected a file"),
        ({"prompt": "x", "cameras": {"frames": []}}, "no list `frames`"),
        ({"prompt": "x", "cameras": orbit(2), "start": 30}, "start: got 30 with cameras"),
        ({"prompt": "x", "cameras": orbit(2), "fov": 30}, "fov: got 30 with cameras"),
        ({"prompt": "x", "cameras": orbit(2), "radius": 3}, "radius: got 3 with cameras"),
        ({"prompt": "x", "image_elevation": 3}, "1 angles for 0 pictures"),
        ({"image": [torch.ones(4, 8, 8)] * 2, "image_azimuth": "10,370"}, "same pose for the pictures 0 and 1"),
        ({"prompt": "x", "azimuths": "0,zero"}, "expected degrees"),
        ({"prompt": "x", "azimuths": "0,90", "views": 3}, "azimuths"),
        ({"prompt": "x", "image_azimuth": 10}, "1 angles for 0 pictures"),
        ({"prompt": "x", "cameras": "missing.json"}, "cannot be read"),
        ({"prompt": "x", "image": "missing.png"}, "missing.png"),
        ({"prompt": "x", "image": torch.full((4, 8, 8), float("nan"))}, "finite"),
        ({"prompt": "x", "image": torch.full((4, 8, 8), -1.0)}, "nothing but background"),
        ({"prompt": "x", "image": [torch.ones(4, 8, 8)] * 2}, "expected the azimuth of each"),
    ],
)
def test_bad_requests_have_one_clear_line(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        ViewsRequest.read(fields, "request")
    assert "\n" not in str(error.value)


def test_notes_name_what_was_not_trained(picture):
    def named(**fields):
        notes = task.notes(ViewsRequest.read({"prompt": "x", **fields}, "request"))
        return [note.partition(":")[0] for note in notes]

    task = Views(Views.Config())
    assert named(fov=80, radius=9, elevation=70) == ["fov", "elevation", "radius"]
    assert named(image=str(picture)) == []
    assert named(image=str(picture), image_elevation=80) == ["elevation"]
    assert named(cameras=[look_at(0, 20, 2, 40), look_at(90, 20, 9, 40)]) == ["radius"]
    noisy = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert "background was kept" in task.notes(ViewsRequest.read({"image": noisy}, "request"))[0]


def test_nothing_is_written_if_the_picture_is_not_one(lumina, tiny_views, tmp_path):
    (tmp_path / "no.png").write_bytes(b"text")
    out = tmp_path / "out.png"
    result = lumina("views", "--image", tmp_path / "no.png", "--out", out, "--model", tiny_views)
    assert result.status != 0 and "not an image" in result.err and result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["no.png"]


def test_the_task_keeps_its_contract():
    from lumina_core.plugins.loader import load_plugins

    check_component(load_plugins(), "task", "3d.views", sample={"prompt": "a chair", "views": 2})
