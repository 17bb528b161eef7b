"""A model with a pretrained text encoder and autoencoder is checked, trained, saved, loaded and sampled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors import safe_open

from lumina_core.sampling.pipeline import Pipeline

FOLDER = Path(__file__).parents[1] / "tiny_pipeline"


def recipe(folder, **training):
    usual = {
        "steps": 3,
        "global_batch_size": 4,
        "warmup_steps": 0,
        "compile": False,
        "checkpoint_interval": 3,
        "sample_interval": 0,
        "cond_dropout": 0.3,
    }
    return {
        "task": {"type": "image.text_to_image", "image_size": 32},
        "dataset": {"type": "image.emoji", "image_size": 32, "languages": ["en"]},
        "autoencoder": {"type": "image.kl", "source": str(folder / "vae"), "posterior": "sample"},
        "tokenizer": {"type": "image.patchify", "patch_size": 2},
        "conditioners": [
            {
                "field": "caption",
                "type": "core.transformers",
                "source": str(folder / "text_encoder"),
                "tokenizer": str(folder / "tokenizer"),
            }
        ],
        "backbone": {
            "type": "core.next_dit",
            "hidden_size": 32,
            "num_layers": 1,
            "num_heads": 2,
            "rope_axes_dim": [0, 8, 8],
            "multiple_of": 16,
        },
        "head": {"type": "core.velocity"},
        "objective": {"type": "core.flow_matching"},
        "sampling": {"steps": 2, "guidance_scale": 2.0},
        "training": {**usual, **training},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run, and that of what it borrows."""
    place = tmp_path_factory.mktemp("borrowed")
    shutil.copytree(FOLDER, place / "outside")
    from lumina_core.cli.main import run

    values = recipe(place / "outside", cache_dir=str(place / "shelf"))
    (place / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert run(["check", str(place / "recipe.yaml")]) == 0
    assert run(["train", str(place / "recipe.yaml"), "--out", str(place / "run"), "--device", "cpu", "--quiet"]) == 0
    return place


def test_pretrained_modules_are_not_in_the_weights(trained):
    with safe_open(trained / "run" / "model" / "model.safetensors", "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"backbone", "head"}  # noqa: SIM118


def test_a_saved_model_names_its_sources_and_their_sha256(trained):
    written = json.loads((trained / "run" / "model" / "config.json").read_text(encoding="utf-8"))["recipe"]
    assert all(len(use["sha256"]) == 64 for use in (written["autoencoder"], written["conditioners"][0]))


def test_a_run_is_resumed_and_the_shelf_is_used(trained, lumina):
    kept = sorted((trained / "shelf").rglob("*.safetensors"))
    assert kept
    done = lumina(
        "train", trained / "recipe.yaml", "--out", trained / "run", "--resume", "--quiet", "--set", "training.steps=4"
    )
    assert (done.status, done.err) == (0, "")
    assert set(kept) <= set((trained / "shelf").rglob("*.safetensors"))


def test_the_model_generates_in_every_dtype(trained):
    plain = Pipeline.from_pretrained(trained / "run" / "model")(prompt="red heart")[0].data
    assert plain.shape == (3, 32, 32) and torch.isfinite(plain).all()
    small = Pipeline.from_pretrained(trained / "run" / "model", dtype="bfloat16")(prompt="red heart")[0].data
    assert (small - plain).abs().mean() < 0.1


def test_a_truncated_text_is_reported(trained, lumina, tmp_path):
    prompt = "red heart " * 200
    done = lumina("image", prompt, "--model", trained / "run" / "model", "--out", tmp_path / "x.png")
    assert done.status == 0 and (tmp_path / "x.png").is_file()
    assert done.err.startswith("Note: caption: the text is too long for this model; ignored: '")
    assert done.err.count("\n") == 1


def test_another_encoder_in_the_same_folder_is_refused(trained, lumina, tmp_path):
    other = tmp_path / "all"
    shutil.copytree(trained, other)
    config = other / "run" / "model" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace(str(trained), str(other)), encoding="utf-8")
    settings = other / "outside" / "text_encoder" / "config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace("10000.0", "10001.0"), encoding="utf-8")
    done = lumina("image", "red heart", "--model", other / "run" / "model", "--out", tmp_path / "x.png")
    assert done.status == 1 and "files have changed since the model was saved" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
