"""Cropping to bucket sizes, skipped images, and determinism by the generator alone."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image.image_files import BLUE, GREEN, RED, encode_image, skip_reasons
from PIL import Image

from lumina_core.errors import ConfigError
from lumina_core.training.dataloader import make_sampler
from lumina_image.datasets.image_dataset import ClassFolderDataset, FolderDataset
from lumina_image.image_io import crop_resize

SIDES = st.integers(1, 300)


def write(root, sizes, **captions):
    for number, size in enumerate(sizes):
        (root / f"{number:03}.png").write_bytes(encode_image((number % 256, 0, 0), size))
        (root / f"{number:03}.txt").write_text(f"number {number}", encoding="utf-8")


def folder(path, **options):
    return FolderDataset(FolderDataset.Config.read({"folder": str(path), "image_size": 32, **options}, "test"))


@given(SIDES, SIDES, SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_any_image_covers_any_size_at_any_crop_position(width, height, wide, high, across, down):
    cut = crop_resize(Image.new("RGB", (width, height), RED), (wide, high), across, down)
    assert cut.size == (wide, high) and cut.getpixel((0, 0)) == RED == cut.getpixel((wide - 1, high - 1))


def test_an_image_of_the_aspect_ratio_of_a_size_is_not_cropped():
    halves = Image.new("RGB", (80, 20), RED)
    halves.paste(BLUE, (40, 0, 80, 20))
    cut = crop_resize(halves, (40, 10), 0.9, 0.1)
    assert cut.getpixel((1, 5)) == RED and cut.getpixel((38, 5)) == BLUE


def test_a_crop_moves_along_the_longer_side_without_distortion():
    thirds = np.zeros((30, 90, 3), dtype=np.uint8)
    for third, colour in enumerate((RED, GREEN, BLUE)):
        thirds[:, 30 * third : 30 * third + 30] = colour
    image = Image.fromarray(thirds)
    assert crop_resize(image, (20, 20), 0.0).getpixel((10, 10)) == RED
    assert crop_resize(image, (20, 20), 1.0).getpixel((10, 10)) == BLUE
    both = crop_resize(image, (40, 20), 0.0)
    assert both.getpixel((5, 10)) == RED and both.getpixel((35, 10)) == GREEN


def test_each_image_is_cropped_to_a_similar_size_by_the_generator_alone(tmp_path):
    write(tmp_path, [(64, 32), (32, 64), (50, 50)])
    data = folder(tmp_path, buckets={"step": 8, "top_k": 1})
    assert [tuple(data.get(k, random.Random(0))["image"].shape) for k in range(3)] == [
        (3, 24, 40), (3, 40, 24), (3, 32, 32)
    ]  # fmt: skip
    data = folder(tmp_path, buckets={"step": 8})
    for index in range(3):
        for seed in range(12):
            picture = data.get(index, random.Random(seed))["image"]
            assert data.size(index, random.Random(seed)) == tuple(picture.shape[1:])
            assert torch.equal(picture, data.get(index, random.Random(seed))["image"])
    assert len({data.size(0, random.Random(seed)) for seed in range(40)}) == 4


def test_batches_hold_one_size_each_and_any_step_repeats(tmp_path):
    write(tmp_path, [(64, 32)] * 12 + [(32, 64)] * 12)
    data = folder(tmp_path, buckets={"step": 8, "top_k": 1})
    order = make_sampler(data, 0)
    for step in range(6):
        shapes = {data.get(d.index, d.python_rng())["image"].shape for d in order.step_keys(step, 4)}
        assert len(shapes) == 1
    assert make_sampler(pickle.loads(pickle.dumps(data)), 0).step_keys(5, 4) == order.step_keys(5, 4)


def test_squares_need_no_arranging(tmp_path):
    write(tmp_path, [(64, 32), (32, 64), (9, 9)])
    data = folder(tmp_path)
    assert {data.size(k, random.Random(0)) for k in range(3)} == {(32, 32)}


def test_images_without_a_bucket_are_skipped_and_named_in_one_line(tmp_path, caplog):
    write(tmp_path, [(64, 32), (400, 20), (32, 32)])
    data = folder(tmp_path, buckets={"step": 8})
    assert data.values("file") == ["000.png", "002.png"]
    assert skip_reasons(data) == {"001.png": "400x20: the best bucket keeps 20%, below min_kept_fraction"}
    assert len(caplog.records) == 1 and "2 images, 1 skipped: 001.png (400x20" in caplog.text
    assert len(folder(tmp_path, buckets={"step": 8, "min_kept_fraction": 0})) == 3
    assert data.get(1, random.Random(0))["caption"] == "number 2"


def test_images_smaller_than_their_buckets_can_be_skipped(tmp_path):
    write(tmp_path, [(64, 64), (8, 8)])
    assert len(folder(tmp_path, buckets={"step": 8, "top_k": 1})) == 2
    data = folder(tmp_path, buckets={"step": 8, "top_k": 1, "max_upscale": 2})
    assert skip_reasons(data) == {"001.png": "8x8: smaller than its buckets, above max_upscale"}


def test_buckets_that_skip_every_image_are_one_line(tmp_path):
    write(tmp_path, [(64, 16), (80, 20)])
    with pytest.raises(ConfigError, match=r"nothing to train on.*0 images, 2 skipped: 000.png \(64x16: the best"):
        folder(tmp_path, buckets={"sizes": [[32, 32]]})


@pytest.mark.parametrize(
    ("buckets", "record"),
    [
        ({"sizes": [[30, 32]]}, r"expected multiples of step 16 up to 16384, not \[30, 32\]; nearest: \[32, 32\]"),
        ({"sizes": [[0, 32]]}, "expected multiples of step 16"),
        ({"sizes": [[32]]}, "dataset.*buckets.sizes.0"),
        ({"step": 128}, "got 128, expected at most the image_size 32"),
        ({"max_aspect_ratio": 0.5}, "greater than or equal to 1"),
        ({"ratio": 2}, "unknown key 'buckets.ratio'"),
    ],
)
def test_a_wrong_bucket_config_is_one_line(tmp_path, buckets, record):
    write(tmp_path, [(64, 32)])
    with pytest.raises(ConfigError, match=record.replace("dataset.*", "")):
        folder(tmp_path, buckets=buckets)


def test_own_sizes_are_taken_as_they_are_given(tmp_path):
    write(tmp_path, [(64, 32), (32, 32)])
    data = folder(tmp_path, buckets={"sizes": [[32, 16], [16, 16], [32, 16]], "top_k": 1})
    assert data.image_sizes == [(32, 16), (16, 16)]
    assert [data.size(k, random.Random(0)) for k in range(2)] == [(16, 32), (16, 16)]


def test_the_replacement_of_a_damaged_image_is_cropped_to_its_size(tmp_path):
    write(tmp_path, [(64, 32), (32, 64)])
    data = folder(tmp_path, buckets={"step": 8, "top_k": 1}, validate_first=0)
    (tmp_path / "000.png").write_bytes(b"not an image")
    found = data.get(0, random.Random(0))
    assert found["file"] == "001.png" and tuple(found["image"].shape) == (3, 24, 40)


def test_the_size_of_a_rotated_image_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), RED).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    for decode_first in (0, 10):
        assert folder(tmp_path, validate_first=decode_first).size_choices()[0][0] == (32, 64)


# ---- captions by source, and classes


def test_captions_of_several_sources_come_from_jsonl_and_json_files(tmp_path):
    write(tmp_path, [(8, 8)])
    (tmp_path / "000.txt").unlink()
    (tmp_path / "000.json").write_text('{"captions": {"llava": "a long one", "blip2": "short"}}', encoding="utf-8")
    record = {"file": "000.png", "captions": {"llava": "x", "blip2": "y"}, "caption_weights": {"blip2": 0}}

    def drawn(**options):
        data = folder(tmp_path, **options)
        return {data.get(0, random.Random(n))["caption"] for n in range(30)}

    assert drawn() == {"a long one", "short"}
    assert drawn(caption_weights={"llava": 0}) == {"short"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(record), encoding="utf-8")
    assert drawn() == {"x"}


def classes(path, **options):
    return ClassFolderDataset(ClassFolderDataset.Config.read({"folder": str(path), "image_size": 8, **options}, "test"))


def test_folders_are_classes_by_their_names_in_order(tmp_path):
    for number, name in enumerate(("tabby_cat", "dog", ".hidden")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "0.png").write_bytes(encode_image((number, 0, 0)))
    data = classes(tmp_path)
    examples = [data.get(index, random.Random(0)) for index in range(len(data))]
    assert [(one["label"], one["caption"], one["file"]) for one in examples] == [
        (0, "dog", "dog/deep/0.png"), (1, "tabby cat", "tabby_cat/deep/0.png")
    ]  # fmt: skip
    assert list(data.values("label")) == [0, 1] and data.values("caption") == ["dog", "tabby cat"]
    named = classes(tmp_path, class_captions={"dog": ["hound", "dog"]}, template="a photo of a {}")
    assert named.values("caption") == ["a photo of a hound", "a photo of a dog", "a photo of a tabby cat"]


def test_classes_without_images_or_with_links_out_are_refused(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "dog").mkdir(parents=True)
    (outside / "dog" / "0.png").write_bytes(encode_image())
    (inside / "cat").mkdir(parents=True)
    (inside / "dog").symlink_to(outside / "dog")
    (inside / "cat" / "0.png").symlink_to(outside / "dog" / "0.png")
    with pytest.raises(ConfigError, match=r"leads outside the folder.*Put a folder with images .* for each class"):
        classes(inside)
    with pytest.raises(ConfigError, match=r"expected \{\} for the class name"):
        classes(inside, template="a photo")
