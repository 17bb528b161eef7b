"""Names of classes: kept with the model, requested by name, and bound to their numbers when a training goes on."""

from __future__ import annotations

import json

import pytest
from image.image_files import BLUE, GREEN, RED, encode_image

from lumina_core.errors import ConfigError
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import read_recipe
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.training.dry_run import dry_run
from lumina_core.training.trainer import Trainer


def values(folder, num_classes=3, **training):
    return {
        "task": {"type": "image.class_to_image", "image_size": 16},
        "dataset": {"type": "image.class_folder", "image_size": 16, "folder": str(folder)},
        "autoencoder": {"type": "image.identity"},
        "tokenizer": {"type": "image.patchify", "patch_size": 8},
        "conditioners": [
            {"field": "label", "type": "core.class_label", "num_classes": num_classes, "hidden_size": 16}
        ],
        "backbone": {"type": "core.next_dit", "hidden_size": 32, "num_layers": 1, "num_heads": 2, "multiple_of": 16},
        "head": {"type": "core.velocity"},
        "objective": {"type": "core.flow_matching"},
        "sampling": {"steps": 2},
        "training": {
            "steps": 2, "global_batch_size": 2, "compile": False, "mixed_precision": "float32",
            "checkpoint_interval": 2, "sample_requests": [{"label": "square"}], **training,
        },
    }  # fmt: skip


@pytest.fixture
def shapes(tmp_path):
    for name, colour in (("circle", RED), ("square", BLUE)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(encode_image(colour))
    return tmp_path / "data"


def test_a_trained_model_takes_names_and_keeps_the_numbers(shapes, tmp_path, lumina):
    recipe = read_recipe(values(shapes), "test")
    with Trainer(recipe, tmp_path / "run") as trainer:
        model = trainer.train()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["conditioners"][0]["class_names"] == ["circle", "square"]
    by_name, by_number = (Pipeline.from_pretrained(model)(label, seed=1, steps=1).images[0] for label in ("Square", 1))
    assert by_name.tobytes() == by_number.tobytes()
    done = lumina("class", "square", "--model", model, "--out", tmp_path / "x.png", "--steps", 1)
    assert done.status == 0, done.err
    wrong = lumina("class", "sqare", "--model", model, "--out", tmp_path / "y.png", "--steps", 1)
    assert wrong.status == 2 and "did you mean 'square'" in wrong.err
    (shapes / "bee").mkdir()
    (shapes / "bee" / "1.png").write_bytes(encode_image(GREEN))
    more = read_recipe(values(shapes, steps=4), "test")
    with pytest.raises(ConfigError, match="conditioners"):
        Trainer(more, tmp_path / "run", resume=True)


def test_more_folders_than_classes_are_refused_by_check_too(shapes):
    with pytest.raises(ConfigError, match="num_classes: got 1, expected at least 2, the classes of the data set"):
        dry_run(read_recipe(values(shapes, num_classes=1), "test"), load_plugins())


def test_check_tells_what_requests_never_ask_and_sizes_that_differ(shapes):
    recipe = values(shapes)
    recipe["task"]["image_size"] = 32
    notes = dry_run(read_recipe(recipe, "test"), load_plugins()).truncation_notes
    assert any("the data have the size 16x16, and requests get 32x32" in note for note in notes)
    recipe = values(shapes, sample_requests=[])
    recipe["task"]["type"] = "image.text_to_image"
    notes = dry_run(read_recipe(recipe, "test"), load_plugins()).truncation_notes
    assert any("no request of image.text_to_image has a value for the conditioner 'label'" in note for note in notes)
