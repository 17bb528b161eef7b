"""Command `lumina points` and task text-to-points, with a tiny model."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import registry_of
from PIL import Image

from lumina_3d.points.cloud_io import read_cloud
from lumina_3d.points.memory import check_memory, needed_bytes
from lumina_3d.points.metrics import PointCoordinates, PointDensity
from lumina_3d.points.task import ClassToPoints, TextToPoints
from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.recipe import Recipe
from lumina_core.training.optim import build_optimizers

FAST = ("--steps", 2)


def test_prompt_becomes_a_file_of_the_requested_count_with_its_metadata(run_points, tmp_path):
    out = tmp_path / "chair.ply"
    done = run_points("an office chair", "--count", 300, "--out", out, "--seed", 3, *FAST)
    assert (done.status, done.out) == (0, f"{out}\n"), done.err
    assert read_cloud(out).points.shape == (300, 3)
    record = json.loads(out.read_bytes().split(b"comment lumina ")[1].split(b"\n")[0])
    assert (record["prompt"], record["seed"], record["count"], record["settings"]["steps"]) == (
        "an office chair",
        3,
        300,
        2,
    )
    assert os.listdir(tmp_path) == ["chair.ply"]


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".obj"])
def test_every_format_holds_the_same_points(run_points, tmp_path, suffix):
    out = tmp_path / f"a{suffix}"
    assert run_points("a mug", "--count", 70, "--out", out, *FAST).status == 0
    reference = tmp_path / "b.npz"
    assert run_points("a mug", "--count", 70, "--out", reference, *FAST).status == 0
    assert np.allclose(read_cloud(out).points, read_cloud(reference).points, atol=0)


def test_normals_and_text_are_written_on_request(run_points, tmp_path):
    out = tmp_path / "a.ply"
    assert run_points("a mug", "--count", 70, "--normals", "--ascii", "--out", out, *FAST).status == 0
    assert b"format ascii" in out.read_bytes()[:40]
    normals = read_cloud(out).normals
    assert normals is not None and np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_pictures_are_written_next_to_the_result(run_points, tmp_path):
    pytest.importorskip("plotly")
    out = tmp_path / "a.ply"
    done = run_points(
        "a mug", "--count", 70, "--out", out, "--strip", "auto", "--turn", "auto", "--html", "auto", *FAST
    )
    assert done.status == 0, done.err
    assert sorted(os.listdir(tmp_path)) == ["a.gif", "a.html", "a.ply", "a.png"]
    with Image.open(tmp_path / "a.png") as strip, Image.open(tmp_path / "a.gif") as turn:
        assert strip.size == (2048, 256) and turn.n_frames == 36
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Plotly" in page and 'src="http' not in page


def test_several_clouds_have_consecutive_seeds(run_points, tmp_path):
    assert run_points("a mug", "--count", 20, "--clouds", 2, "--seed", 5, "--out", tmp_path, *FAST).status == 0
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    single = tmp_path / "single.ply"
    assert run_points("a mug", "--count", 20, "--seed", 6, "--out", single, *FAST).status == 0
    assert np.allclose(read_cloud(tmp_path / names[1]).points, read_cloud(single).points, atol=1e-5)


def test_given_points_come_back_bit_for_bit(pipe):
    partial = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    cloud = pipe("a mug", count=150, partial=partial, steps=2, seed=1).points[0]
    assert np.array_equal(cloud[-10:], partial.numpy())
    other = pipe("a mug", count=150, partial=partial.flip(0) * 0.3, steps=2, seed=1).points[0]
    assert not np.allclose(cloud[:100], other[:100], atol=1e-4)


def test_a_batch_of_counts_equals_single_clouds(pipe):
    counts = (17, 64, 200)
    requests = [pipe.make_request(prompt="a mug", count=count, steps=2, seed=7) for count in counts]
    together = pipe(requests).points
    for request, cloud in zip(requests, together, strict=True):
        assert np.allclose(cloud, pipe([request]).points[0], atol=1e-5)


def test_count_does_not_change_the_anchors(pipe):
    small, large = (pipe("a mug", count=count, steps=3, seed=2).points[0] for count in (64, 500))
    assert np.allclose(large[:64], small, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", 0), "count"),
        (("--count", 10**8), "count"),
        (("--partial", "missing.ply"), "missing.ply"),
        (("--count", 2, "--normals"), "at least 3 for a plane"),
        (("--solver", "nothing"), "nothing"),
    ],
)
def test_a_bad_request_is_one_clear_line_and_writes_nothing(run_points, tmp_path, arguments, message):
    done = run_points("a mug", "--out", tmp_path / "a.ply", *arguments)
    assert done.status != 0 and message in done.err
    assert "Traceback" not in done.err and not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3)), "1 to"),
        (np.full((3, 3), np.nan), "finite"),
        (np.full((3, 3), 5.0), "frame of the whole object"),
        (np.zeros((3, 2)), "shape"),
        (np.zeros((3, 3), dtype=complex), "real"),
        (torch.zeros((3, 3), dtype=torch.complex64), "real"),
    ],
)
def test_bad_partial_clouds_are_refused(pipe, points, message):
    with pytest.raises(ConfigError, match=message):
        pipe("a mug", partial=points)


def test_more_given_points_than_points_are_refused(pipe):
    with pytest.raises(ConfigError, match="Request more points"):
        pipe("a mug", count=10, partial=np.zeros((10, 3)))


def test_a_file_of_more_given_points_than_are_allowed_is_not_thinned(pipe, tmp_path):
    np.save(tmp_path / "many.npy", np.zeros((2**16 + 1, 3), dtype=np.float32))
    with pytest.raises(ConfigError, match="1 to 65536 points"):
        pipe("a mug", partial=str(tmp_path / "many.npy"), count=10**5)


def test_needed_memory_is_reported():
    assert needed_bytes(10**6) > needed_bytes(10**3)
    with pytest.raises(ConfigError, match=r"1000000 points, which need about .* GB .* at most 1\.0 GB"):
        check_memory(10**6, available=2**30)
    check_memory(10**6, available=2**40)


def test_memory_that_holds_cached_files_counts_as_available(monkeypatch):
    monkeypatch.setattr("lumina_core.device.available_memory", lambda device: 2**30)
    monkeypatch.setattr("os.sysconf", lambda name: 4096, raising=False)  # pages that nothing uses: the cache took all
    check_memory(256)
    monkeypatch.setattr("lumina_core.device.available_memory", lambda device: 2**28)
    with pytest.raises(ConfigError, match=r"at most 0\.2 GB"):
        check_memory(256)


def test_a_note_says_that_few_points_are_out_of_training():
    task = TextToPoints(TextToPoints.Config())
    assert "256 of training" in task.notes(task.Request(prompt="a mug", count=20))[0]
    assert task.notes(task.Request(prompt="a mug", count=8192)) == []


def test_training_saves_samples_and_a_model_that_generates(lumina, tmp_path):
    settings = (
        "training.steps=2",
        "training.global_batch_size=4",
        "training.checkpoint_interval=2",
        "training.sample_interval=2",
        "sampling.steps=1",
    )
    done = lumina(
        "train", "3d.points_tiny", "--out", tmp_path / "run", *(w for one in settings for w in ("--set", one))
    )
    assert done.status == 0, done.err
    (sheet,) = (tmp_path / "run" / "samples").glob("*.png")
    with Image.open(sheet) as picture:
        assert picture.size == (512, 256)
    out = tmp_path / "a.ply"
    assert lumina("points", "a mug", "--count", 100, "--out", out, "--model", tmp_path / "run" / "model").status == 0
    assert read_cloud(out).points.shape == (100, 3)


def test_evaluation_compares_with_real_clouds(lumina, tiny_points, tmp_path):
    metrics = ("3d.point_sets", "3d.point_density", "3d.point_attributes", "3d.point_class")
    arguments = ("--metrics", ",".join(metrics), "--samples", 4, "--out", tmp_path / "e", "--json", *FAST)
    done = lumina("evaluate", tiny_points, *arguments)
    assert done.status == 0, done.err
    scores = json.loads(done.out.strip().splitlines()[-1])["scores"]
    assert scores["3d.point_sets"]["1-NNA-CD"]["value"] >= 0.5  # a model without training
    assert scores["3d.point_attributes"]["attributes of real clouds"]["value"] >= 0.98


def test_density_of_a_collapsed_cloud_is_a_number_or_nan():
    config = PointCoordinates.Config(count=4)
    rows = torch.stack([torch.zeros(12), torch.rand(12)])
    inputs = SimpleNamespace(generated=rows, real=rows.flip(0), target_index=torch.tensor([0, 1]))
    scores = PointDensity(PointDensity.Config(), PointCoordinates(config)).compute(inputs)
    assert scores["nearest"][0] == 0 and torch.isnan(scores["variation"][0])
    assert scores["nearest over real"].tolist() == [0, float("inf")]


def test_a_class_is_requested_by_name_or_index():
    task = ClassToPoints(ClassToPoints.Config())
    by_name, by_index = (task.conditions(task.Request(label=label)) for label in ("table", "1"))
    assert by_name == by_index == {"label": [1]}
    assert task.request_for({"label": 1, "count": 99}) == {"label": "1", "count": 99}
    with pytest.raises(ConfigError, match=r"label: got 'tabel'.*table"):
        task.conditions(task.Request(label="tabel"))
    with pytest.raises(ConfigError, match="below 10"):
        task.conditions(task.Request(label="10"))


def test_the_recipe_of_classes_builds():
    registry = registry_of("3d")
    recipe = Recipe.load("3d.points_class", registry=registry)
    model = build_model(recipe, registry)
    build_optimizers(model, recipe.training)  # this model has no gates, for which the base has a rate
    assert isinstance(model.task, ClassToPoints) and set(model.conditioners_by_field) == {"label", "partial"}


def test_a_dry_run_knows_that_requests_may_have_given_points(lumina):
    result = lumina("check", "3d.points_tiny")
    assert result.status == 0 and "no request of" not in result.out + result.err, result.err
