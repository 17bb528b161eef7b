"""The page of recipes tells every key of a recipe as it is today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lumina_core.recipe import ConditionerSpec, Recipe, SamplingConfig, TrainingConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "recipes.md").read_text(encoding="utf-8")


def _builder():
    spec = importlib.util.spec_from_file_location("build_recipes", DOCS / "build_recipes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _block(name: str) -> str:
    return PAGE.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0]


@pytest.mark.parametrize(
    ("block", "settings"),
    [("recipe", Recipe), ("conditioner", ConditionerSpec), ("sampling", SamplingConfig), ("training", TrainingConfig)],
)
def test_the_page_describes_every_key_of_a_recipe(block, settings) -> None:
    rows = {row.split("|")[1].strip(" `"): row.split("|")[3].strip() for row in _block(block).splitlines()[3:] if row}
    assert set(rows) == set(settings.model_fields)
    assert all(rows.values()), "a key has no description"


def test_the_page_has_the_descriptions_of_the_code() -> None:
    fresh = _builder().filled(PAGE)
    assert fresh == PAGE, "docs/reference/recipes.md is older than the settings; run: python docs/build_recipes.py"


def test_every_example_on_the_page_is_a_recipe(tmp_path) -> None:
    examples = [part.partition("```")[0] for part in PAGE.split("```yaml\n")[1:]]
    assert examples
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(example, encoding="utf-8")
        assert Recipe.load(file).task.type == "image.text_to_image"
