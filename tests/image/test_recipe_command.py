"""`lumina recipe`: the text of an installed recipe, and one for a folder of one's own."""

from __future__ import annotations

from importlib.resources import files

import pytest
from image.image_files import RED, encode_image

from lumina_core.recipe import Recipe


def test_an_installed_recipe_is_printed_with_its_comments(lumina):
    done = lumina("recipe", "image.tiny")
    assert done.status == 0
    assert done.out == (files("lumina_image") / "recipes/tiny.yaml").read_text(encoding="utf-8").rstrip() + "\n"
    assert "did you mean 'image.tiny'" in lumina("recipe", "image.tyny").err


@pytest.mark.parametrize("name", ["image.tiny", "image.classes"])
def test_a_recipe_for_a_folder_can_be_trained(lumina, tmp_path, name):
    kind = "cat" if name == "image.classes" else ""
    (tmp_path / "data" / kind).mkdir(parents=True)
    (tmp_path / "data" / kind / "a.png").write_bytes(encode_image(RED))
    (tmp_path / "data" / kind / "a.txt").write_text("a red card")
    done = lumina("recipe", name, "--folder", tmp_path / "data", "--set", "training.steps=7")
    assert done.status == 0, done.err
    (tmp_path / "mine.yaml").write_text(done.out, encoding="utf-8")
    recipe, installed = Recipe.load(tmp_path / "mine.yaml"), Recipe.load(name)
    assert recipe.training.steps == 7 and recipe.dataset.options["folder"] == str(tmp_path / "data")
    assert recipe.dataset.options["image_size"] == installed.task.options["image_size"]
    assert (recipe.backbone, recipe.conditioners) == (installed.backbone, installed.conditioners)
    if name == "image.tiny":
        assert lumina("check", tmp_path / "mine.yaml").status == 0
    assert "expected an existing folder" in lumina("recipe", name, "--folder", tmp_path / "none").err
