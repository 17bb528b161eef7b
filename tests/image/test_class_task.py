"""Class-to-image: requests by class index, and evaluation."""

from __future__ import annotations

import json

import pytest
import torch
from making import registry_of
from PIL import Image

from lumina_core.model import build_model
from lumina_core.model_dir import save_model
from lumina_core.recipe import read_recipe

RECIPE = {
    "task": {"type": "image.class_to_image", "image_size": 16},
    "dataset": {"type": "image.emoji", "image_size": 16, "languages": ["en"]},
    "autoencoder": {"type": "image.identity"},
    "tokenizer": {"type": "image.patchify", "patch_size": 8},
    "conditioners": [{"field": "label", "type": "core.class_label", "num_classes": 3786, "hidden_size": 16}],
    "backbone": {
        "type": "core.next_dit",
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "rope_axes_dim": [0, 4, 4],
        "multiple_of": 8,
    },
    "head": {"type": "core.velocity"},
    "objective": {"type": "core.flow_matching"},
    "sampling": {"steps": 1, "solver": "core.euler", "guidance_scale": 2.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    registry = registry_of("image")
    model = build_model(read_recipe(RECIPE, "classes"), registry)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    path = tmp_path_factory.mktemp("classes") / "model"
    save_model(model, path, registry)
    return path


def test_a_class_is_requested_by_its_index(lumina, folder, tmp_path):
    def pixels(label):
        done = lumina(
            "class", label, "--model", folder, "--out", tmp_path / f"{label}.png", "--size", "16x16", "--overwrite"
        )
        assert done.status == 0, done.err
        return Image.open(tmp_path / f"{label}.png").tobytes()

    assert pixels(3) != pixels(4) and pixels(3) == pixels(3)


@pytest.mark.parametrize(("label", "message"), [("3786", "from 0 to 3785"), ("dog", "integer"), ("-1", "")])
def test_an_unknown_class_is_one_line(lumina, folder, tmp_path, label, message):
    done = lumina("class", "--model", folder, "--out", tmp_path / "a.png", "--", label)
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1


def test_a_class_conditional_model_is_evaluated(lumina, folder):
    done = lumina("evaluate", folder, "--metrics", "image.retrieval", "--samples", 3, "--json")
    assert done.status == 0 and json.loads(done.out)["scores"]["image.retrieval"]["top1"]["count"] == 3


def test_data_without_labels_is_refused_by_evaluation(lumina, folder, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("black")
    done = lumina("evaluate", folder, "--dataset", tmp_path, "--metrics", "image.retrieval")
    assert done.status == 2 and "expected a label" in done.err
