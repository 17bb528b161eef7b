"""The recipes of fine-tuning start from the built-in model, and keep what makes it up."""

from __future__ import annotations

import pytest
import torch
from making import registry_of
from PIL import Image

from lumina_core import Recipe, Trainer
from lumina_core.adapters.base import use_base_model
from lumina_core.errors import ConfigError
from lumina_core.model_dir import load_model, read_model_recipe


@pytest.fixture(scope="module")
def registry():
    return registry_of("image")


@pytest.fixture
def classes(tmp_path):
    for name, color in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (64, 64), color).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def small(recipe, folder, *overrides, registry):
    settings = ["training.steps=1", "training.global_batch_size=2", "training.sample_interval=0", *overrides]
    return Recipe.load(recipe, [f"dataset.folder={folder}", *settings], registry)


def test_a_class_conditional_model_starts_from_the_blocks_of_the_base(classes, tmp_path, registry):
    recipe = small("image.classes", classes, "conditioners.0.num_classes=2", "training.lr=1e-9",
                   "training.lr_overrides={}", "training.sample_requests=[]", registry=registry)  # fmt: skip
    trainer = Trainer(recipe, tmp_path / "run", device="cpu", registry=registry)
    assert "copied" in trainer.messages[0] and "new: " in trainer.messages[0]
    trainer.train()
    model, base = load_model(tmp_path / "run" / "model", registry), load_model("image.emoji", registry)
    qkv, base_qkv = (one.backbone.blocks[3].attention.qkv.weight for one in (model, base))
    assert torch.allclose(qkv, base_qkv, atol=1e-6)
    assert model.backbone.config.cross_attention_dim == 0
    assert [spec.type for spec in model.recipe.conditioners] == ["core.class_label"]


def test_more_classes_than_the_recipe_has_are_refused(classes, tmp_path, registry):
    recipe = small("image.classes", classes, "conditioners.0.num_classes=1", "training.sample_requests=[]",
                   registry=registry)  # fmt: skip
    with pytest.raises(ConfigError, match=r"num_classes|class label"):
        Trainer(recipe, tmp_path / "run", device="cpu", registry=registry).train()


def test_a_lora_recipe_takes_the_components_of_its_base_and_keeps_its_own_settings_of_speed(classes, registry):
    recipe = small("image.lora", classes, registry=registry)
    used, messages = use_base_model(recipe, ["image.emoji"], registry)
    base = read_model_recipe("image.emoji", registry)
    assert used.autoencoder == base.autoencoder and used.base_model == "image.emoji"
    assert used.backbone.options == base.backbone.options | {"gradient_checkpointing": True}
    assert used.training.adapter == recipe.training.adapter
    (message,) = messages
    assert "autoencoder" in message and "as in image.emoji" in message
    assert use_base_model(recipe, [], registry)[1] == []


def test_the_large_recipe_has_no_base_of_its_own(classes, registry):
    with pytest.raises(ConfigError, match="init: got none, expected the model that the adapter is trained on"):
        use_base_model(small("image.2b_lora", classes, registry=registry), [], registry)


def test_the_families_of_a_folder_of_classes_are_its_classes(classes, registry):
    from lumina_core.evaluation.eval_set import make_eval_set
    from lumina_core.model import build_dataset

    recipe = small("image.classes", classes, registry=registry)
    eval_set = make_eval_set(build_dataset(recipe, registry), "image")
    assert eval_set.families == ["0", "0", "1", "1"]
    assert torch.equal(eval_set.reference(0), eval_set.reference(1))
