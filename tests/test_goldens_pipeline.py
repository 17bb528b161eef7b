"""The golden of a diffusers folder: it passes, it is found by its folder, and every planted error fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import goldens
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
REFERENCE = HERE / "goldens_data" / "B3_pipeline_square.safetensors"


@pytest.fixture
def change_reference(tmp_path):
    """Return a function that copies the folder and its reference tensors with a change."""
    shutil.copytree(HERE / "tiny_pipeline", tmp_path / "tiny_pipeline")

    def write(name=None, amount=0.0, **run):
        with safe_open(REFERENCE, "pt") as file:
            config = json.loads(file.metadata()["config"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config["runs"][0].update(run)
        if name is not None:
            tensors[name].view(-1)[0] += amount
        save_file(tensors, tmp_path / "reference.safetensors", {"config": json.dumps(config)})
        return tmp_path / "reference.safetensors"

    return write


def verdict(capsys, path):
    status = goldens.main([str(path)])
    return status, capsys.readouterr().out.split()[-1]


def test_a_golden_is_found_by_its_pipeline_folder(change_reference, capsys):
    assert verdict(capsys, change_reference().with_name("tiny_pipeline")) == (0, "ok")


def test_a_folder_without_reference_or_a_reference_without_folder_fails(change_reference, tmp_path, capsys):
    assert verdict(capsys, tmp_path / "tiny_pipeline") == (1, "FAIL")
    path = change_reference()
    shutil.rmtree(tmp_path / "tiny_pipeline")
    assert verdict(capsys, path) == (1, "FAIL")


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("input.square.prompt_embeds", 3e-4),
        ("input.square.negative_prompt_embeds", 3e-4),
        ("input.square.latents", 1e-2),
        ("output.square.latents_per_step", 1e-3),
        ("output.square.sigmas", 1e-4),
        ("output.square.decoded", 1e-3),
        ("output.square.image", 1e-3),
        ("output.vae.mean", 1e-3),
        ("output.square.image", float("nan")),
    ],
)
def test_an_error_in_any_tensor_fails(change_reference, capsys, name, amount):
    assert verdict(capsys, change_reference(name, amount)) == (1, "FAIL")


@pytest.mark.parametrize(
    "run", [{"guidance_scale": 3.9}, {"num_inference_steps": 3}, {"prompt": ["a photo of a blue cat"]}]
)
def test_the_settings_of_the_file_are_used(change_reference, capsys, run):
    assert verdict(capsys, change_reference(**run)) == (1, "FAIL")
