"""lumina buckets: a table, a drawing or one line of JSON, and one clear line where there is nothing to show."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from image.image_files import encode_image
from PIL import Image

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


def test_the_table_says_the_sizes_and_what_is_left_out(lumina, recipe, folder):
    done = lumina("buckets", recipe(folder))
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["40", "x", "24", "1.67", "8", "80.0%", "4", "16.7%", "0%"] in [row[:9] for row in rows]
    assert "10 pictures in 2 sizes, 11 sizes unused; 16.7% of them is cut away; batches of 2, about 0" in done.out
    assert "left out: 1\n  10.png: 400x10: the best bucket keeps 10% of it, under min_kept_fraction" in done.out
    assert "32 x 32" not in done.out and "32 x 32" in lumina("buckets", recipe(folder), "--all").out


def test_json_is_one_object_with_every_size_and_every_name(lumina, recipe, folder):
    done = lumina("buckets", recipe(folder), "--json", "--set", "dataset.buckets.top_k=2")
    said = json.loads(done.out)
    assert sum(row["expected_draws"] for row in said["buckets"]) == 10 == said["num_images"]
    drawn = [row for row in said["buckets"] if row["expected_draws"]]
    assert [row["expected_draws"] for row in drawn].count(4.0) == 2 and len(drawn) == 4
    assert sum(row["num_best"] for row in said["buckets"]) == 10
    assert [one["name"] for one in said["skipped"]] == ["10.png"]


def test_the_drawing_is_a_png_with_a_line_a_size(lumina, recipe, folder, tmp_path):
    done = lumina("buckets", recipe(folder), "--plot", tmp_path / "b.png")
    assert done.status == 0 and f"the drawing is in {tmp_path / 'b.png'}" in done.out
    with Image.open(tmp_path / "b.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(100000)}
    assert {(70, 130, 180), (178, 34, 34)} <= colours


def test_a_mixture_shows_the_sizes_of_all_by_their_weights(lumina, recipe, folder):
    square = {**folder, "buckets": None, "weight": 3}
    mixture = {"type": "core.mixture", "dataset": [{**folder, "weight": 1}, square]}
    said = json.loads(lumina("buckets", recipe(mixture), "--json").out)
    shares = {(row["width"], row["height"]): row["fraction"] for row in said["buckets"] if row["expected_draws"]}
    assert shares == {(40, 24): 0.2, (32, 32): 0.75, (24, 40): 0.05}


def test_pictures_of_one_size_are_one_line(lumina, recipe):
    (row,) = json.loads(lumina("buckets", recipe({"type": "image.emoji"}), "--json").out)["buckets"]
    assert (row["width"], row["height"], row["fraction"], row["cropped_fraction"]) == (64, 64, 1.0, 0.0)


def test_sizes_that_the_model_cannot_do_are_told_before_a_run_begins(lumina, recipe, folder, tmp_path):
    asked = recipe({**folder, "buckets": {"step": 4}})
    for command in (("check", asked), ("train", asked, "--out", tmp_path / "run")):
        done = lumina(*command)
        assert done.status == 2 and done.err.count("\n") == 1
        assert "the data set brings data of 16 x 60: this model cannot do 16 x 60: a latent of 16x60" in done.err
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_shown_is_one_clear_line(lumina, recipe, folder, tmp_path):
    for dataset, options, said in [
        ({**folder, "folder": "absent"}, (), "no folder 'absent'"),
        ({**folder, "buckets": {"sizes": [[1600, 16]]}}, (), "nothing to train on"),
        (folder, ("--plot", tmp_path / "b.jpg"), "wanted a .png file in a folder that exists"),
        (folder, ("--plot", tmp_path / "absent" / "b.png"), "wanted a .png file in a folder that exists"),
    ]:
        done = lumina("buckets", recipe(dataset), *options)
        assert done.status == 2 and done.out == "" and said in done.err and done.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["pictures", "r.yaml"]
    assert "no recipe is called 'absent'" in lumina("buckets", "absent").err
