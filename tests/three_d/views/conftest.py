"""A tiny model of views with random weights, for tests of whole requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lumina_core.model import build_model
from lumina_core.model_dir import save_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe

SMALL = [
    "backbone.hidden_size=64", "backbone.num_layers=2", "backbone.multiple_of=16", "backbone.ffn_dim_multiplier=null",
    "backbone.position_encoding.axes_dim=[8,4,4]", "conditioners.0.hidden_size=32", "conditioners.0.context_dim=16",
    "conditioners.0.expand_dim=32", "conditioners.0.vocab_size=400", "sampling.steps=2",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_views(tmp_path_factory) -> Path:
    """Folder of the recipe 3d.views, made small, with random weights in every layer."""
    torch.manual_seed(0)
    model = build_model(Recipe.load("3d.views", [*SMALL, "dataset.per_family=1"]))
    model.conditioners_by_field["caption"].fit(["a red sofa", "a chair with arms", "a round table on a pedestal"] * 9)
    for parameter in model.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("views") / "model"
    save_model(model, folder, load_plugins())
    return folder


@pytest.fixture(scope="session")
def small_options() -> list[str]:
    """Changes of the recipe 3d.views that make `tiny_views`."""
    return SMALL
