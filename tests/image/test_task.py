"""From `lumina image` to a PNG, with a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_image.image_io import to_pil
from lumina_image.request import TextToImageRequest
from lumina_image.task import TextToImage


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def record(path: Path | str) -> dict:
    with Image.open(path) as picture:
        return json.loads(picture.text["lumina"])


def test_a_sentence_becomes_a_png_of_the_models_own_size_with_the_request_in_it(ask, tmp_path):
    out = tmp_path / "heart.png"
    done = ask("a red ❤️", "--out", out, "--seed", 1)
    assert (done.status, done.out, done.err) == (0, f"{out}\n", "")
    with Image.open(out) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 32))
    usual = {"steps": 8, "solver": "core.midpoint", "schedule": "core.uniform_schedule", "guidance_scale": 2.0}
    content = record(out)
    assert content.pop("model").endswith("/model")
    assert content == {"prompt": "a red ❤️", "seed": 1, "nfe": 16, "settings": usual}
    assert os.listdir(tmp_path) == ["heart.png"]


def test_every_option_at_once_and_all_of_it_is_in_the_file_and_in_the_json(ask, tmp_path):
    options = [
        "--size",
        "40x24",
        "--count",
        4,
        "--steps",
        3,
        "--solver",
        "midpoint",
        "--schedule",
        "shift",
        "--guidance-scale",
        3,
    ]
    done = ask("a red heart", "--out", tmp_path / "h.png", "--seed", 1, *options, "--negative-prompt", "blue", "--json")
    report = json.loads(done.out.splitlines()[-1])
    assert [Path(item["path"]).name for item in report["items"]] == ["h-0.png", "h-1.png", "h-2.png", "h-3.png"]
    assert (
        [item["seed"] for item in report["items"]] == [1, 2, 3, 4]
        and report["nfe"] == 6
        and report["generation_seconds"] > 0
    )
    assert report["settings"] == {"steps": 3, "solver": "midpoint", "schedule": "shift_schedule", "guidance_scale": 3.0}
    assert (
        record(report["items"][3]["path"])["seed"] == 4
        and record(report["items"][3]["path"])["negative_prompt"] == "blue"
    )
    assert record(report["items"][0]["path"])["size"] == [40, 24]
    with Image.open(report["items"][0]["path"]) as picture:
        assert picture.size == (40, 24)


def test_the_same_request_gives_the_same_bytes(ask, tmp_path):
    for name in "ab":
        ask("a red heart", "--out", tmp_path / f"{name}.png", "--seed", 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 4),
        ("--negative-prompt", "blue cat"),
        ("--guidance-scale", 1),
        ("--guidance-scale", 5),
        ("--solver", "euler"),
        ("--schedule", "shift"),
        ("--steps", 2),
    ],
)
def test_every_option_changes_the_image(ask, tmp_path, options):
    ask("a red heart", "--out", tmp_path / "plain.png")
    assert ask("a red heart", "--out", tmp_path / "other.png", *options).status == 0
    assert (pixels(tmp_path / "plain.png") != pixels(tmp_path / "other.png")).any()


def test_an_emoji_is_the_same_as_its_name(ask, tmp_path):
    ask("❤️", "--out", tmp_path / "emoji.png")
    ask("red heart", "--out", tmp_path / "name.png")
    assert (pixels(tmp_path / "emoji.png") == pixels(tmp_path / "name.png")).all()


def test_an_empty_negative_is_the_same_as_none(ask, tmp_path):
    ask("a cat", "--out", tmp_path / "a.png", "--negative-prompt", "")
    ask("a cat", "--out", tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


def test_prompts_of_a_file_equal_single_prompts(ask, tmp_path):
    prompts = ["a red heart", "a black cat", "太陽", "a very much longer prompt about a house and the moon", "🚀"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    out = tmp_path / "pictures.v1"
    done = ask("--prompts", tmp_path / "prompts.txt", "--out", out, "--seed", 10)
    assert done.status == 0
    assert sorted(os.listdir(out)) == [f"{place:05d}.png" for place in range(5)]
    for place, prompt in enumerate(prompts):
        ask(prompt, "--out", tmp_path / "one.png", "--seed", 10 + place, "--overwrite")
        assert abs(pixels(out / f"{place:05d}.png") - pixels(tmp_path / "one.png")).max() <= 1
        assert record(out / f"{place:05d}.png") == record(tmp_path / "one.png")


def test_more_prompts_than_one_batch_holds_are_all_answered(ask, tmp_path):
    (tmp_path / "p").write_text("a cat\n" * 18, encoding="utf-8")
    ask("--prompts", tmp_path / "p", "--out", tmp_path / "o", "--steps", 1, "--solver", "euler", "--seed", 2)
    assert len(os.listdir(tmp_path / "o")) == 18 and record(tmp_path / "o" / "00017.png")["seed"] == 19


def test_the_installed_command_prints_one_object_last(tiny_folder, tmp_path):
    out = tmp_path / "heart.png"
    command = ["image", "a red heart", "--out", str(out), "--model", str(tiny_folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "lumina_core", *command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["items"][0]["path"] == str(out) and out.is_file()


def test_pixels_are_rounded_and_clipped():
    item = torch.tensor([-3.0, -1.0, -0.001, 0.003, 1.0, 7.0]).expand(3, 1, 6)
    assert [level[0] for level in np.asarray(to_pil(item))[0].tolist()] == [0, 0, 127, 128, 255, 255]


def test_width_comes_first_in_a_size_and_rows_first_in_an_extent():
    task = TextToImage(TextToImage.Config(image_size=48))
    assert task.size(TextToImageRequest(prompt="a", size="64×32")) == (32, 64)
    assert task.size(TextToImageRequest(prompt="a")) == (48, 48)


def test_the_grid_has_rows_of_eight_images(tmp_path):
    task = TextToImage(TextToImage.Config())
    path = task.save_grid([torch.zeros(3, 8, 8)] * 10, tmp_path / "samples", "step")
    with Image.open(path) as sheet:
        assert sheet.size == (80, 20)


def test_rope_scaling_uses_the_training_size(tmp_path):
    """The published switch needs them; here both sides are doubled, and nobody says at which size it was trained."""
    from lumina_core.sampling.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained("image.emoji")
    answers = [
        pipeline(prompt="red heart", size="128x128", steps=1, guidance_scale=1, rope_scaling=name)[0].data
        for name in ("none", "interpolation", "interpolation:train_size=64", "interpolation:train_size=128")
    ]
    none, known, given, grown = answers
    assert (known == given).all()
    assert (none == grown).all()
    assert float((none - known).abs().max()) > 1e-3


def test_a_model_that_knows_emoji_itself_reads_them_as_they_are_written():
    request = TextToImageRequest(prompt="a ❤️", negative_prompt="🚀")
    named, kept = (TextToImage(TextToImage.Config(emoji_to_text=value)) for value in (True, False))
    assert named.conditions(request)["caption"] == ["a red heart"] and named.negative_conditions(request)[
        "caption"
    ] == ["rocket"]
    assert kept.conditions(request)["caption"] == ["a ❤️"] and kept.negative_conditions(request)["caption"] == ["🚀"]
