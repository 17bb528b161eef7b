"""A recipe is plain settings: read, compared, written, also where its plugins are not installed."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from lumina_core.errors import ConfigError
from lumina_core.recipe import Recipe, read_recipe, write_recipe

TEXT = (files("lumina_toy") / "small.yaml").read_text(encoding="utf-8")


def values() -> dict:
    return yaml.safe_load(TEXT)


def test_writing_and_reading_again_gives_the_same_recipe():
    recipe = read_recipe(values(), "small")
    written = write_recipe(recipe)
    assert read_recipe(yaml.safe_load(written), "again") == recipe
    assert "training" not in written  # what is left at its default is not repeated


def test_a_recipe_of_plugins_that_nobody_has_can_be_read():
    recipe = read_recipe({**values(), "tokenizer": {"type": "nobody.has", "this": [1, 2]}}, "small")
    assert recipe.tokenizer.options == {"this": [1, 2]}


def test_the_parts_used_are_named_with_their_kinds_also_those_inside_options():
    objective = {"type": "core.flow_matching", "path": {"type": "motion.curve"}}
    recipe = read_recipe({**values(), "objective": objective, "sampling": {"solver": "ralston.step"}}, "small")
    used = recipe.component_names()
    assert {("path", "motion.curve"), ("solver", "ralston.step"), ("schedule", "core.uniform_schedule")} <= set(used)
    assert ("conditioner", "core.text") in used and ("task", "toy.numbers") in used


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 3}, "small is of schema 3; this lumina-core reads up to 2. Install a newer one"),
        ({"schema_version": 1}, "small is of schema 1 (`lumina: 1`, components named by `use:`)"),
        ({"lumina": 1}, "small is of schema 1 (`lumina: 1`, components named by `use:`)"),
        ({"backbone": {"use": "core.next_dit"}}, "small is of schema 1 (`lumina: 1`, components named by `use:`)"),
        ({"tokeniser": {"type": "a.b"}}, "unknown key 'tokeniser'; did you mean 'tokenizer'?"),
        ({"training": {"step": 3}}, "unknown key 'training.step'; did you mean 'steps'?"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer: input should be 'adamw' or 'muon'"),
        ({"conditioners": [{"type": "core.text"}]}, "the key 'conditioners.0.field' is missing"),
        ({"backbone": {"hidden_size": 3}}, "the key 'backbone.type' is missing"),
        ({"backbone": "core.next_dit"}, "backbone"),
    ],
)
def test_a_wrong_recipe_says_which_key_and_what_was_wanted(change, said):
    with pytest.raises(ConfigError) as error:
        read_recipe({**values(), **change}, "small")
    assert said in str(error.value) and str(error.value).startswith("small")


def test_a_recipe_is_read_from_a_file_and_the_file_is_named_where_it_is_wrong(tmp_path):
    (tmp_path / "a.yaml").write_text(TEXT, encoding="utf-8")
    assert Recipe.load(tmp_path / "a.yaml") == read_recipe(values(), "small")
    (tmp_path / "b.yaml").write_text("schema_version: 2", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"b\.yaml: the key 'task' is missing"):
        Recipe.load(tmp_path / "b.yaml")
