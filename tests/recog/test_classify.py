"""`lumina classify` on files of any size and form, and what it says of those that it cannot read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from recog.images import CLASSES, class_folder, encode, load, save_classifier

import lumina_core
from lumina_recog.image_io import ImageError, parse_image, read_image, read_image_size
from lumina_recog.task import Classify


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny")


def answers(result):
    assert result.status == 0, result.err
    return json.loads(result.out.splitlines()[-1])["images"]


def test_files_of_several_sizes_in_their_order(lumina, model, tmp_path):
    names = []
    for width, height in ((1, 1), (40, 30), (300, 9), (8, 8)):
        names.append(tmp_path / f"{width}x{height}.png")
        Image.new("RGB", (width, height), "red").save(names[-1])
    rows = answers(lumina("classify", *names, "--model", model, "--json"))
    assert [row["file"] for row in rows] == list(map(str, names))
    for row in rows:
        assert row["label"] in CLASSES
        assert sum(one["probability"] for one in row["top"]) == pytest.approx(1, abs=1e-3)
        assert row["group"] in ("warm", "cold")
    alone = answers(lumina("classify", names[2], "--model", model, "--json"))[0]
    assert alone["top"] == rows[2]["top"]


@pytest.mark.parametrize(
    ("mode", "form"),
    [("I;16", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("L", "TIFF")],
)
def test_images_of_every_mode(lumina, model, tmp_path, mode, form):
    path = tmp_path / f"image.{form.lower()}"
    Image.new(mode, (20, 12)).save(path, form)
    assert answers(lumina("classify", path, "--model", model, "--json"))[0]["label"] in CLASSES


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright_and_has_its_size(tmp_path, orientation):
    upright = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 9)
    back = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # Pillow's transpositions that undo them
    stored = upright
    for method in back.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x112] = orientation
    for form in ("PNG", "TIFF"):
        stored.save(tmp_path / "a", form, exif=exif)
        assert np.array_equal(read_image(tmp_path / "a"), upright)
        assert read_image_size(tmp_path / "a") == (3, 2)


def test_gray_of_16_bits_has_the_range_of_its_bits(tmp_path):
    for top in (255, 4095, 65535):
        Image.fromarray(np.array([[0, top // 2, top]], dtype=np.uint16)).save(tmp_path / "a.png")
        assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize(("mode", "form"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG")])
def test_a_large_image_is_reduced_and_its_size_is_known_before(tmp_path, mode, form):
    image = Image.new(mode, (8201, 1960), {"L": 200, "P": 0, "RGBA": (0, 0, 0, 0)}[mode])
    image.save(tmp_path / "a", form)
    found = read_image(tmp_path / "a")
    assert found.size == read_image_size(tmp_path / "a") == (4101, 980)
    assert found.getpixel((4100, 979)) == {"L": (200,) * 3, "P": (0,) * 3, "RGBA": (255,) * 3}[mode]
    with pytest.raises(ImageError, match="too large: 8201x1960"):
        read_image_size(tmp_path / "a", 1_000_000)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)


def test_a_folder_is_classified_without_its_hidden_files(lumina, model, tmp_path):
    root = class_folder(tmp_path / "images", per_class=1)
    (root / ".cache").mkdir()
    Image.new("RGB", (4, 4)).save(root / ".cache" / "x.png")
    assert len(answers(lumina("classify", root, "--model", model, "--json"))) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "not an image in a known format"),
        (encode(Image.effect_noise((64, 64), 50))[:900], "damaged"),
        (encode(Image.effect_noise((64, 64), 50), "JPEG")[:300], "damaged|cannot be opened"),
        (b"", "not an image in a known format"),
    ],
)
def test_a_file_that_is_no_image_is_one_line(lumina, model, tmp_path, content, message):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    result = lumina("classify", path, "--model", model)
    assert result.status == 2
    assert len(result.err.strip().splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        parse_image(path)


def test_one_bad_file_among_others_is_named(lumina, model, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("text")
    result = lumina("classify", tmp_path, "--model", model)
    assert result.status == 0
    assert "bad.png: not read (not an image in a known format" in result.out
    assert "good.png: " in result.out


def test_what_a_folder_holds_besides_is_named_in_its_order(lumina, model, tmp_path):
    for name in ("a.png", "c.jfif", "d.pgm"):
        Image.new("RGB", (9, 9)).save(tmp_path / name, {"d.pgm": "PPM", "c.jfif": "JPEG"}.get(name, "PNG"))
    for name in ("b.heic", "a0.png"):
        (tmp_path / name).write_text("text")
    (tmp_path / "linked").symlink_to(tmp_path)
    rows = answers(lumina("classify", tmp_path, "--model", model, "--json"))
    assert [(row["file"].rpartition("/")[2], "error" in row) for row in rows] == [
        ("a.png", False), ("a0.png", True), ("b.heic", True), ("c.jfif", False), ("d.pgm", False), ("linked", True),
    ]  # fmt: skip


def test_unreadable_files_and_an_unknown_device_are_one_clear_line(lumina, model, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    nothing = lumina("classify", tmp_path, "--model", model)
    assert nothing.status == 2 and "none of which is a usable image" in nothing.err
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    for device in ("cpu:99", "nosuch"):
        wrong = lumina("classify", tmp_path / "c.png", "--model", model, "--device", device)
        assert wrong.status == 2 and f"device: got '{device}'" in wrong.err


def test_an_empty_folder_a_missing_file_and_another_model(lumina, model, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "without images" in lumina("classify", tmp_path / "empty", "--model", model).err
    assert "does not exist" in lumina("classify", tmp_path / "none.png", "--model", model).err
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    pytest.importorskip("lumina_image")
    assert "does not classify" in lumina("classify", tmp_path / "a.png", "--model", "image.emoji").err


def test_explain_writes_an_overlay_of_the_size_of_the_image(lumina, model, tmp_path):
    Image.new("RGB", (50, 30), "red").save(tmp_path / "a.png")
    row = answers(lumina("classify", tmp_path / "a.png", "--model", model, "--json", "--explain", tmp_path / "maps"))[0]
    assert Image.open(row["explanation"]).size == (50, 30)
    plain = answers(lumina("classify", tmp_path / "a.png", "--model", model, "--json"))[0]
    assert plain["top"] == row["top"]


def test_images_of_equal_names_have_explanations_of_their_own(lumina, model, tmp_path):
    names = [tmp_path / "a.png", tmp_path / "b" / "a.png", tmp_path / "a.bmp"]
    for number, name in enumerate(names):
        name.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9 + number, 9)).save(name)
    for _ in range(2):  # the second time they replace those of the first
        rows = answers(lumina("classify", *names, "--model", model, "--json", "--explain", tmp_path / "maps"))
        assert [Image.open(row["explanation"]).width for row in rows] == [9, 10, 11]
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_images_beyond_a_batch_are_answered_in_order(lumina, model, tmp_path, monkeypatch):
    monkeypatch.setattr("lumina_recog.cli.BATCH_PIXELS", 20)
    names = [tmp_path / f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        Image.new("RGB", (3 + number * 5, 3), (number * 60, 0, 200)).save(name)
    alone = [answers(lumina("classify", name, "--model", model, "--json"))[0] for name in names]
    assert answers(lumina("classify", *names, "--model", model, "--json")) == alone


def test_a_large_jpeg_is_reduced_by_its_decoder(tmp_path):
    Image.new("RGB", (9000, 9000), "red").save(tmp_path / "large.jpg")
    image = read_image(tmp_path / "large.jpg")
    assert image.size == (2250, 2250)
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="too large: 9000x9000"):
        read_image(tmp_path / "large.png")


def test_python_takes_paths_bytes_images_arrays_and_tensors(model, tmp_path):
    image = Image.new("RGB", (24, 16), (10, 200, 30))
    image.save(tmp_path / "a.png")
    tensor = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 127.5 - 1).float()
    values = [tmp_path / "a.png", str(tmp_path / "a.png"), encode(image), image, np.asarray(image), tensor]
    found = lumina_core.predict(load(model), [{"image": value} for value in values])
    assert all(one["top"] == found[0]["top"] for one in found)
    with pytest.raises(lumina_core.errors.ConfigError, match="expected a path, the bytes"):
        lumina_core.predict(load(model), [{"image": torch.full((3, 2, 2), float("nan"))}])


def test_the_group_is_the_sum_of_its_classes():
    task = Classify(Classify.Config(classes=("a/x", "b/y", "b/z")))
    answer = task.describe(torch.tensor([0.4, 0.35, 0.25]).log())
    assert (answer["label"], answer["group"]) == ("a/x", "b")
    assert answer["group_probability"] == pytest.approx(0.6, abs=1e-3)


def test_a_temperature_softens_the_answer():
    logits = torch.tensor([2.0, 0.0])
    plain, soft = (Classify(Classify.Config(temperature=t)).describe(logits)["probability"] for t in (1.0, 2.0))
    assert plain == pytest.approx(0.8808, abs=1e-3)
    assert soft == pytest.approx(0.7311, abs=1e-3)


def test_groups_have_a_temperature_of_their_own():
    logits = torch.tensor([2.0, 1.0, 0.5])
    classes = ("a/x", "a/y", "b/z")
    plain, own = (
        Classify(Classify.Config(classes=classes, temperature=2.0, group_temperature=t)).describe(logits)
        for t in (None, 0.5)
    )
    assert plain["probability"] == own["probability"]
    odds = float(logits.softmax(0)[:2].sum() / logits.softmax(0)[2])
    assert own["group"] == "a" and own["group_probability"] == pytest.approx(odds**2 / (1 + odds**2), abs=1e-4)
    assert plain["group_probability"] < own["group_probability"]


@pytest.mark.parametrize("temperature", [0.1, 10.0])
def test_the_temperature_of_groups_keeps_their_order(temperature):
    """Divided before the sums, a low temperature would name the group of the best class."""
    logits = torch.tensor([0.4, 0.35, 0.25]).log()
    task = Classify(Classify.Config(classes=("a/x", "b/y", "b/z"), group_temperature=temperature))
    assert task.describe(logits)["group"] == "b"


def test_names_that_do_not_fit_the_head():
    with pytest.raises(lumina_core.errors.ConfigError, match="got 1 names, expected 2"):
        Classify(Classify.Config(classes=("one",))).describe(torch.zeros(2))
