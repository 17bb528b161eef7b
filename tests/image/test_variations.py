"""Variations: inversion of an image, new noise, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_pretrained()


def heart(pipeline):
    return pipeline(prompt="red heart", seed=1, steps=6)[0].data


def apart(one, other):
    return float((one - other).square().mean().sqrt())


def test_a_variation_without_noise_and_guidance_returns_the_image(pipeline):
    picture = heart(pipeline)
    how = {"prompt": "red heart", "variation_of": picture, "guidance_scale": 1, "steps": 8, "solver": "midpoint"}
    how |= {"schedule": "uniform"}
    back = pipeline(**how, variation_strength=0.0)[0]
    other = pipeline(**how, variation_strength=1.0, seed=7)[0].data
    assert apart(back.data, picture) < 0.08
    assert apart(other, picture) > 1.5 * apart(back.data, picture)
    assert back.metadata["inversion_nfe"] == 16
    assert set(back.metadata["variation_of"]) == {"sha256"}


def test_all_new_noise_is_text_to_image_with_the_same_seed(pipeline):
    how = {"prompt": "red heart", "guidance_scale": 1, "steps": 2, "seed": 5}
    changed = pipeline(**how, variation_of=torch.zeros(3, 64, 64), variation_strength=1.0)[0].data
    noise = torch.randn((16, 8, 8), generator=torch.Generator().manual_seed(5))  # of the latent
    plain = pipeline(**how, inputs=PrecomputedInputs(noise=noise[None]))[0].data
    torch.testing.assert_close(changed, plain, atol=1e-5, rtol=0)


def test_the_source_prompt_is_used_by_inversion_only(pipeline):
    picture = heart(pipeline)
    how = {"variation_of": picture, "variation_strength": 0.0, "guidance_scale": 1, "steps": 4}
    same = pipeline(prompt="blue heart", source_prompt="blue heart", **how)[0].data
    plain = pipeline(prompt="blue heart", **how)[0].data
    redrawn = pipeline(prompt="blue heart", source_prompt="red heart", **how)[0].data
    torch.testing.assert_close(same, plain, atol=0, rtol=0)
    assert apart(redrawn, plain) > 0.01


def noisy(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variation-strength", "0.5"), "--variation-strength: got no variation_of"),
        (("--source-prompt", "a heart"), "--source-prompt: got no variation_of"),
        (("--variation-of", "p.png", "--variation-strength", "1.5"), "less than or equal to 1"),
        (("--variation-of", "p.png", "--init-image", "p.png"), "expected only one of them"),
        (("--variation-of", "none.png"), "none.png"),
        (("--variation-of", "p.png", "--solver", "sde"), "noise"),
    ],
)
def test_a_wrong_variation_is_one_line_and_no_file(ask, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    noisy("p.png")
    done = ask("red heart", "--out", "o.png", "--steps", "1", *options)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_the_command_varies_an_image_of_any_size_and_records_its_source(ask, tmp_path):
    noisy(tmp_path / "p.png")
    words = [
        "red heart",
        "--variation-of",
        tmp_path / "p.png",
        "--variation-strength",
        "0.3",
        "--steps",
        "1",
        "--out",
        tmp_path / "o.png",
    ]
    assert ask(*words).status == 0
    with Image.open(tmp_path / "o.png") as picture:
        record = json.loads(picture.text["lumina"])
    assert (record["variation_of"]["name"], record["variation_strength"], record["inversion_nfe"]) == ("p.png", 0.3, 2)
