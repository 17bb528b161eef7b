"""The recipes of the paper's sizes can be built, and are as large as the published weights."""

from __future__ import annotations

import pytest
import torch

from lumina_core.model import Model, build_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe

# backbone and head; for the first two as in the published manifests (the third below), without their unused pad_token
SIZES = {
    "2b": 1_988_524_576 - 2304,
    "2b_gqa": 1_627_386_400 - 2304,
    "3b": 4_437_342_240,
    "7b": 7_559_462_944,
}


def built(name: str) -> Model:
    """The recipe as a user names it, without memory for its weights."""
    registry = load_plugins()
    with torch.device("meta"):
        return build_model(Recipe.load(f"image.{name}"), registry)


def count(model: Model, *parts: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(parts))


@pytest.mark.parametrize(("name", "parameters"), SIZES.items())
def test_a_recipe_of_a_paper_size_has_the_published_count(name, parameters):
    assert count(built(name), "backbone.", "head.") == parameters


def test_the_imagenet_recipe_has_the_published_count_with_its_labels():
    assert count(built("600m_imagenet"), "backbone.", "head.", "conditioners.label.") == 559_455_776


@pytest.mark.parametrize("name", ["2b_gqa", "600m_imagenet"])
def test_a_latent_of_a_paper_size_is_an_eighth_of_the_side_in_four_channels(name):
    model = built(name)
    assert (model.autoencoder.channels, model.autoencoder.downsample_factor) == (4, (8, 8))
    assert model.tokenizer.width == 16
