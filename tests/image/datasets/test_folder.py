"""Image folders: usable images are read, others are named, and no file outside the folder is opened."""

from __future__ import annotations

import json
import logging
import random

import numpy as np
import pytest
import torch
from image.image_files import giant_header
from PIL import Image

from lumina_core.errors import ConfigError
from lumina_image.datasets.image_dataset import FolderDataset
from lumina_image.image_io import ImageError, crop_resize, read_image, read_image_size, to_rgb

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(path, colour=RED, size=(40, 30), caption=None, **how):
    Image.new("RGB", size, colour).save(path, **how)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def folder(path, **options):
    return FolderDataset(FolderDataset.Config.read({"folder": str(path), "image_size": 16, **options}, "test"))


def skip_reasons(data):
    return {skipped.name: skipped.reason for skipped in data.skipped}


def test_each_line_of_the_text_file_of_an_image_is_a_caption(tmp_path):
    picture(tmp_path / "a.png", RED, caption="a red square\n\n  red,   all over \n")
    (tmp_path / "deep").mkdir()
    picture(tmp_path / "deep" / "b.jpg", BLUE, caption="\ufeffein blaues Quadrat")
    data = folder(tmp_path)
    assert data.values("file") == ["a.png", "deep/b.jpg"]
    assert data.values("caption") == ["a red square", "red, all over", "ein blaues Quadrat"]
    drawn = {data.get(0, random.Random(n))["caption"] for n in range(20)}
    assert drawn == {"a red square", "red, all over"}
    example = data.get(0, random.Random(0))
    assert example["image"].shape == (3, 16, 16)
    assert example["image"].dtype == torch.float32
    assert example["image"].amin((1, 2)).tolist() == [1, -1, -1]
    assert data.skipped == []


def test_captions_come_from_a_jsonl_where_there_is_one(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    lines = [{"file": "b.png", "caption": ["one", "two"]}, {"file": "a.png", "caption": "three"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = folder(tmp_path)
    assert data.values("file") == ["b.png", "a.png"]
    assert {data.get(0, random.Random(n))["caption"] for n in range(20)} == {"one", "two"}


def test_damaged_large_and_uncaptioned_images_are_skipped_and_named(tmp_path, caplog):
    picture(tmp_path / "good.png", caption="good")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / "cut.jpg"
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes()[:-800])
    whole.with_suffix(".txt").write_text("cut off", encoding="utf-8")
    (tmp_path / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\nnot at all")
    (tmp_path / "noise.txt").write_text("noise", encoding="utf-8")
    giant_header(tmp_path / "giant.png")
    picture(tmp_path / "silent.png")
    with caplog.at_level(logging.WARNING, logger="lumina.sources"):
        data = folder(tmp_path)
    assert data.values("file") == ["good.png"]
    assert set(skip_reasons(data)) == {"cut.jpg", "noise.png", "giant.png", "silent.txt"}
    assert "too large" in skip_reasons(data)["giant.png"]
    assert len(caplog.records) == 1
    assert "1 images, 4 skipped" in caplog.text
    assert "silent.txt (no caption: missing)" in caplog.text


def test_the_bound_on_pixels_is_checked_before_decoding(tmp_path):
    giant_header(tmp_path / "giant.png", 9000, 9000)
    with pytest.raises(ImageError, match="9000x9000, more than 64000000 pixels"):
        read_image_size(tmp_path / "giant.png", 64_000_000)
    picture(tmp_path / "small.png", caption="s")
    assert set(skip_reasons(folder(tmp_path, max_pixels=1200))) == {"giant.png"}
    with pytest.raises(ConfigError, match="nothing to train on"):
        folder(tmp_path, max_pixels=1199)


def test_an_image_damaged_after_indexing_is_replaced_by_the_next(tmp_path):
    for name, colour in (("a.png", RED), ("b.png", GREEN)):
        picture(tmp_path / name, colour, caption=name)
    data = folder(tmp_path, validate_first=0)
    (tmp_path / "a.png").write_bytes(b"not an image")
    for _ in range(2):
        assert data.get(0, random.Random(0))["caption"] == "b.png"
    assert [skipped.name for skipped in data.skipped] == ["a.png"]
    (tmp_path / "b.png").unlink()
    with pytest.raises(ConfigError, match="can be read any more"):
        data.get(0, random.Random(0))


def test_nothing_outside_the_folder_is_opened(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    secret = picture(outside / "secret.png", caption="secret")
    picture(inside / "own.png", caption="own")
    (inside / "link.png").symlink_to(secret)
    picture(inside / "words.png")
    (inside / "words.txt").symlink_to(outside / "secret.txt")
    (inside / "linked").symlink_to(outside)
    data = folder(inside)
    assert data.values("file") == ["own.png"]
    assert set(skip_reasons(data)) == {"link.png", "words.txt", "linked"}
    lines = [{"file": f, "caption": "x"} for f in ("../outside/secret.png", str(secret), "link.png", "own.png")]
    (inside / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = folder(inside)
    assert data.values("file") == ["own.png"]
    reasons = skip_reasons(data)
    assert reasons.pop("captions.jsonl").startswith("does not name 1 of the files") and "link to a" in reasons.pop(
        "linked"
    )
    assert set(reasons.values()) == {"leads outside the folder"}
    assert len(data.skipped) == 5


def test_bad_lines_of_a_jsonl_cost_only_themselves(tmp_path):
    picture(tmp_path / "a.png")
    lines = [
        b"{",
        b'{"caption": "x"}',
        b'{"file": "a.png", "caption": 3}',
        b'{"file": "b.png", "caption": "x"}',
        b"\xff",
    ]
    lines += [b'{"file": "a.png", "caption": "kept"}', b"[" * 100000, b'{"file": "\\u0000.png", "caption": "x"}']
    (tmp_path / "captions.jsonl").write_bytes(b"\n".join(lines))
    data = folder(tmp_path)
    assert data.values("caption") == ["kept"]
    assert len(data.skipped) == 7


@pytest.mark.parametrize("fill", ["nothing", "a note", "only bad"])
def test_a_folder_without_images_is_refused_with_advice(tmp_path, fill):
    if fill == "a note":
        (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
    if fill == "only bad":
        (tmp_path / "a.png").write_bytes(b"")
        (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nothing to train on.*captions.jsonl"):
        folder(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder '.*absent'"):
        folder(tmp_path / "absent")


def test_a_centre_crop_takes_the_middle_and_a_random_one_moves_with_the_draw(tmp_path):
    stripes = np.zeros((30, 90, 3), dtype=np.uint8)
    for third, colour in enumerate((RED, GREEN, BLUE)):
        stripes[:, 30 * third : 30 * third + 30] = colour
    Image.fromarray(stripes).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("stripes", encoding="utf-8")
    middle = folder(tmp_path, crop="center").get(0, random.Random(0))["image"]
    assert middle[:, 8, 8].tolist() == [-1, 1, -1]
    data = folder(tmp_path)
    drawn = [data.get(0, random.Random(n))["image"] for n in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_an_image_is_rotated_by_its_exif_orientation(tmp_path):
    halves = Image.new("RGB", (20, 20), RED)
    halves.paste(BLUE, (10, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    halves.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png", 10**6)
    assert upright.getpixel((10, 2)) == RED
    assert upright.getpixel((10, 17)) == BLUE


def test_transparent_parts_are_white_in_every_mode():
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    palette = Image.new("P", (2, 2), 0)
    palette.info["transparency"] = 0
    for image in (clear, clear.convert("LA"), palette):
        assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert to_rgb(half).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)


def test_sixteen_bits_keep_their_brightness():
    grey = Image.fromarray(np.full((2, 2), 128 * 257, dtype=np.uint16))
    assert to_rgb(grey).getpixel((0, 0)) == (128, 128, 128)


def test_a_very_long_image_is_cropped_before_it_is_resized():
    line = Image.new("RGB", (200_000, 1), GREEN)
    assert crop_resize(line, (64, 64)).size == (64, 64)
