"""From pictures to views: weights of a picture model, and the first stage of a training."""

from pathlib import Path

import pytest
import torch

from lumina_3d.views.cameras import look_at
from lumina_3d.views.conditioner import ViewInputs
from lumina_core import Pipeline, Trainer
from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.model import build_model
from lumina_core.model_dir import load_model
from lumina_core.recipe import Recipe

pytest.importorskip("embreex")
EMOJI = Path(pytest.importorskip("lumina_image").__file__).parent / "models" / "emoji"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    recipe = Recipe.load(
        "3d.views_from_emoji",
        ["training.steps=1", "training.global_batch_size=2", "dataset.per_family=1", "dataset.families=[mug]"],
    )
    with Trainer(recipe, tmp_path_factory.mktemp("runs") / "views", device="cpu", init=[EMOJI]) as trainer:
        yield trainer


def test_all_weights_of_the_picture_model_are_copied_but_the_projection_of_cameras(trainer):
    assert len(trainer.messages) == 1
    assert trainer.messages[0].endswith("new: backbone.token_condition_embed")


def test_one_view_is_what_the_picture_model_draws(trainer):
    picture_model, views_model = load_model(EMOJI).eval(), trainer.model.eval()
    x, t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3])
    inputs = ViewInputs((look_at(40, 20, 2, 40),))
    pictures, views = picture_model.tokenizer.patchify(x), views_model.tokenizer.patchify(x[:, :, None])
    with torch.no_grad():
        expected = picture_model.velocity(pictures, t, picture_model.encode_condition({"caption": ["a heart"]}, 1))
        condition = views_model.encode_condition({"caption": ["a heart"], "cameras": [inputs]}, 1)
        velocity = views_model.velocity(views, t, condition)
    assert (velocity - expected).abs().max() < 1e-5


def test_a_step_trains_and_the_model_generates(trainer):
    folder = trainer.train()
    data = Pipeline.from_pretrained(folder)("a mug", views=2, steps=1)[0].data
    assert data.shape == (3, 2, 64, 64) and bool(data.isfinite().all())


@pytest.mark.parametrize(
    ("name", "size", "views", "batch"),
    [("256", 256, 4, 256), ("512", 512, 4, 128), ("512_8", 512, 8, 32)],
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
