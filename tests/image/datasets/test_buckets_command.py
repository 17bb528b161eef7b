"""Command `lumina buckets`: table, JSON and one-line errors."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from image.image_files import encode_image

TINY = {
    "task": {"type": "image.text_to_image", "image_size": 32},
    "autoencoder": {"type": "image.identity"},
    "tokenizer": {"type": "image.patchify", "patch_size": 8},
    "objective": {"type": "core.flow_matching"},
    "training": {"global_batch_size": 2},
}


@pytest.fixture
def recipe(tmp_path):
    """`recipe(dataset)` writes a recipe of this data set and gives its path."""

    def write(dataset):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**TINY, "dataset": dataset}), encoding="utf-8")
        return tmp_path / "r.yaml"

    return write


@pytest.fixture
def folder(tmp_path, recipe):
    """A folder of eight wide, two high and one very long picture, as a data set."""
    (tmp_path / "pictures").mkdir()
    for number, size in enumerate([(64, 32)] * 8 + [(32, 64)] * 2 + [(400, 10)]):
        (tmp_path / "pictures" / f"{number:02}.png").write_bytes(encode_image(size=size))
        (tmp_path / "pictures" / f"{number:02}.txt").write_text("a", encoding="utf-8")
    return {
        "type": "image.folder",
        "folder": str(tmp_path / "pictures"),
        "image_size": 32,
        "buckets": {"step": 8, "top_k": 1},
    }


def test_the_table_lists_sizes_and_skipped_images(lumina, recipe, folder):
    done = lumina("buckets", recipe(folder))
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["40x24", "1.67", "8", "80.0%", "4", "16.7%"] in rows
    assert "10 images, 2 sizes, batches of 2" in done.out
    assert "skipped: 1\n  10.png: 400x10: " in done.out


def test_json_contains_every_size_and_every_skipped_image(lumina, recipe, folder):
    done = lumina("buckets", recipe(folder), "--json", "--set", "dataset.buckets.top_k=2")
    report = json.loads(done.out)
    draws = [row["expected_draws"] for row in report["buckets"]]
    assert sum(draws) == 10 == report["num_images"]
    assert draws.count(4.0) == 2 and len(draws) == 4
    assert [item["name"] for item in report["skipped"]] == ["10.png"]


def test_a_mixture_weights_the_sizes_of_its_members(lumina, recipe, folder):
    square = {**folder, "buckets": None, "weight": 3}
    mixture = {"type": "core.mixture", "dataset": [{**folder, "weight": 1}, square]}
    report = json.loads(lumina("buckets", recipe(mixture), "--json").out)
    shares = {(row["width"], row["height"]): row["fraction"] for row in report["buckets"]}
    assert shares == {(40, 24): 0.2, (32, 32): 0.75, (24, 40): 0.05}


def test_images_of_one_size_are_one_row(lumina, recipe):
    (row,) = json.loads(lumina("buckets", recipe({"type": "image.emoji"}), "--json").out)["buckets"]
    assert (row["width"], row["height"], row["fraction"], row["cropped_fraction"]) == (64, 64, 1.0, 0.0)


def test_sizes_that_the_model_cannot_generate_are_refused_before_training(lumina, recipe, folder, tmp_path):
    recipe_file = recipe({**folder, "buckets": {"step": 4}})
    for command in (("check", recipe_file), ("train", recipe_file, "--out", tmp_path / "run")):
        done = lumina(*command)
        assert done.status == 2 and done.err.count("\n") == 1
        assert "got 16 x 60, which this model does not support: latent size: got 16x60" in done.err
    assert not (tmp_path / "run").exists()


def test_an_unusable_recipe_is_one_line(lumina, recipe, folder, tmp_path):
    for dataset, options, message in [
        ({**folder, "folder": "absent"}, (), "no folder 'absent'"),
        ({**folder, "buckets": {"sizes": [[1600, 16]]}}, (), "nothing to train on"),
    ]:
        done = lumina("buckets", recipe(dataset), *options)
        assert done.status == 2 and done.out == "" and message in done.err and done.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["pictures", "r.yaml"]
    assert "recipe: got 'absent', expected an installed recipe or a .yaml file" in lumina("buckets", "absent").err
