"""Recipes of the released and of the paper's sizes, compared with the published weights."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from making import registry_of

from lumina_audio.formats.networks import FlagDiTAdapter, FlagDiTConfig
from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, init_empty_weights
from lumina_core.config import read_text
from lumina_core.model import Model, build_model
from lumina_core.recipe import read_recipe

DATA = Path(__file__).parents[2] / "goldens_data"


def built(name: str) -> Model:
    """Build the model of a recipe without memory for its weights."""
    registry = registry_of("audio")
    package, _, path = registry.recipes()[f"audio.{name}"].target.partition(":")
    text = resources.files(package).joinpath(path).read_text(encoding="utf-8")
    with init_empty_weights():
        return build_model(read_recipe(read_text(text, name), name), registry)


def manifest(name: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((DATA / f"manifest_music_{name}.json").read_text())["shapes"]
    return shapes


@pytest.mark.parametrize("name", ["music", "effects"])
def test_released_recipe_has_every_published_tensor(name):
    if name == "effects":
        pytest.importorskip("transformers")
    model = built(name)
    state = model.state_dict()
    network = {n: InMemoryTensor(t) for n, t in state.items() if n.startswith(("backbone.", "head."))}
    foreign = FlagDiTAdapter().to_foreign(network, FlagDiTConfig(in_channels=20, context_dim=1024))
    assert {n: list(tensor.shape) for n, tensor in foreign.items()} == manifest("flagditv2")
    front = "autoencoder.vae."
    vae = {n[len(front) :]: list(t.shape) for n, t in state.items() if n.startswith(front)}
    assert vae == manifest("autoencoder")
    assert (model.autoencoder.channels, model.autoencoder.downsample_factor) == (20, (512,))
    assert model.task.train_size() == (312 * 512,)


def test_text_tower_of_effects_has_the_size_of_bert_base():
    pytest.importorskip("transformers")
    tower = [
        n for n, p in built("effects").named_parameters() if n.startswith("conditioners.caption.first.tower.base.")
    ]
    assert len(tower) == 5 + 12 * 16


def test_next_dit_of_the_paper_has_179_million_parameters():
    model = built("base")
    own = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("backbone.", "head.")))
    assert own == pytest.approx(179e6, rel=0.03)
    assert (
        model.conditioners_by_field["caption"].cross_attention_dim,
        model.conditioners_by_field["caption"].pooled_dim,
    ) == (1024, 1024)
