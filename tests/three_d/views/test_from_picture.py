"""From pictures to views: weights of a picture model, a step of training, and the paper's stages."""

from pathlib import Path

import pytest
import torch

from lumina_3d.views.cameras import look_at
from lumina_3d.views.conditioner import ViewInputs
from lumina_core import Trainer
from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.model import build_model
from lumina_core.model_dir import load_model
from lumina_core.recipe import Recipe

EMOJI = Path(pytest.importorskip("lumina_image").__file__).parent / "models" / "emoji"


def test_one_view_is_what_the_picture_model_draws_with_all_its_weights():
    picture_model = load_model(EMOJI).eval()
    views_model = build_model(Recipe.load("3d.views_from_emoji")).eval()
    result = views_model.load_state_dict(picture_model.state_dict(), strict=False)
    assert result.missing_keys == ["backbone.token_condition_embed.weight"] and not result.unexpected_keys
    x, t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3])
    inputs = ViewInputs((look_at(40, 20, 2, 40),))
    pictures, views = picture_model.tokenizer.patchify(x), views_model.tokenizer.patchify(x[:, :, None])
    with torch.no_grad():
        expected = picture_model.velocity(pictures, t, picture_model.encode_condition({"caption": ["a heart"]}, 1))
        condition = views_model.encode_condition({"caption": ["a heart"], "cameras": [inputs]}, 1)
        velocity = views_model.velocity(views, t, condition)
    assert (velocity - expected).abs().max() < 1e-5


def test_a_step_of_training_changes_every_part_of_the_model(tmp_path, tiny_views, small_options):
    pytest.importorskip("embreex")

    options = ["training.steps=2", "training.global_batch_size=2", "dataset.per_family=1", "dataset.families=[mug]"]
    recipe = Recipe.load(
        "3d.views",
        [*small_options, *options, "dataset.num_given=[1]", "dataset.pose_dropout=0", "training.compile=false"],
    )
    with Trainer(recipe, tmp_path / "run", device="cpu", init=[tiny_views]) as trainer:
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.train_step(next(trainer.batches()))
        after = trainer.model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"backbone", "head", "conditioners"}
    assert not torch.equal(
        before["backbone.token_condition_embed.weight"], after["backbone.token_condition_embed.weight"]
    )


@pytest.mark.parametrize(
    ("name", "size", "views", "batch"), [("256", 256, 4, 256), ("512", 512, 4, 128), ("512_8", 512, 8, 32)]
)
def test_the_stages_of_the_paper_have_its_sizes(name, size, views, batch):
    recipe = Recipe.load(f"3d.views_600m_{name}")
    assert recipe.task.options["image_size"] == size and recipe.dataset.options["image_size"] == size
    assert recipe.task.options["num_views"] == views and recipe.dataset.options["num_views"] == [views]
    assert recipe.training.global_batch_size == batch and recipe.training.steps == 100000


def test_the_backbone_of_the_paper_has_its_number_of_weights():
    recipe = Recipe.load("3d.views_600m_256")
    plain = recipe.model_dump(mode="json", exclude_none=True)
    plain["conditioners"][0] = {"field": "caption", "type": "core.text", "context_dim": 2048}
    plain["autoencoder"] = {"type": "3d.per_view", "channels": 4}
    with init_empty_weights():
        model = build_model(Recipe.read(plain, "test"))
    assert sum(p.numel() for p in model.backbone.parameters()) == pytest.approx(0.6e9, rel=0.12)
