"""Recipes are plain settings: read, compared, merged and written, even without their plugins."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from lumina_core.errors import ConfigError
from lumina_core.recipe import Recipe, read_recipe

TEXT = (files("lumina_toy") / "small.yaml").read_text(encoding="utf-8")


def values() -> dict:
    return yaml.safe_load(TEXT)


def test_writing_and_reading_again_gives_the_same_recipe():
    recipe = read_recipe(values(), "small")
    written = recipe.to_yaml()
    assert read_recipe(yaml.safe_load(written), "again") == recipe
    assert "training" not in written  # defaults are not repeated


def test_a_recipe_of_plugins_that_are_not_installed_can_be_read():
    recipe = read_recipe({**values(), "tokenizer": {"type": "absent.plugin", "this": [1, 2]}}, "small")
    assert recipe.tokenizer.options == {"this": [1, 2]}


def test_components_are_listed_with_their_types_including_those_inside_options():
    objective = {"type": "core.flow_matching", "path": {"type": "motion.curve"}}
    recipe = read_recipe({**values(), "objective": objective, "sampling": {"solver": "ralston.step"}}, "small")
    used = recipe.component_names()
    assert {("path", "motion.curve"), ("solver", "ralston.step"), ("schedule", "core.uniform_schedule")} <= set(used)
    assert ("conditioner", "core.text") in used and ("task", "toy.numbers") in used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "small: got schema version 3, expected 2. Install a newer lumina-core"),
        ({"schema_version": 1}, "small: got schema version 1 (`lumina: 1`, components named by `use:`), expected 2"),
        ({"lumina": 1}, "small: got schema version 1 (`lumina: 1`, components named by `use:`), expected 2"),
        (
            {"backbone": {"use": "core.next_dit"}},
            "small: got schema version 1 (`lumina: 1`, components named by `use:`), expected 2",
        ),
        ({"tokeniser": {"type": "a.b"}}, "unknown key 'tokeniser'; did you mean 'tokenizer'?"),
        ({"training": {"step": 3}}, "unknown key 'training.step'; did you mean 'steps'?"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer: got 'sgd', expected 'adamw' or 'muon'"),
        ({"conditioners": [{"type": "core.text"}]}, "the key 'conditioners.0.field' is missing"),
        ({"backbone": {"hidden_size": 3}}, "the key 'backbone.type' is missing"),
        ({"backbone": "core.next_dit"}, "backbone"),
    ],
)
def test_an_invalid_recipe_is_reported_with_the_key_and_what_was_expected(change, message):
    with pytest.raises(ConfigError) as error:
        read_recipe({**values(), **change}, "small")
    assert message in str(error.value) and str(error.value).startswith("small")


def test_a_recipe_file_is_named_in_its_errors(tmp_path):
    (tmp_path / "a.yaml").write_text(TEXT, encoding="utf-8")
    assert Recipe.load(tmp_path / "a.yaml") == read_recipe(values(), "small")
    (tmp_path / "b.yaml").write_text("schema_version: 2", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"b\.yaml: the key 'task' is missing"):
        Recipe.load(tmp_path / "b.yaml")


def write(folder, **recipes):
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def test_a_recipe_has_the_values_of_its_base_unless_it_has_others(tmp_path):
    small = values()
    write(tmp_path, small=small, large={"base": "small.yaml", "backbone": {"hidden_size": 96}})
    write(tmp_path, largest={"base": "large.yaml", "backbone": {"num_layers": 9}, "training": {"steps": 7}})
    expected = {
        **small,
        "backbone": {**small["backbone"], "hidden_size": 96, "num_layers": 9},
        "training": {"steps": 7},
    }
    assert Recipe.load(tmp_path / "largest.yaml") == read_recipe(expected, "expected")


def test_a_component_of_another_type_and_a_list_are_replaced_completely(tmp_path):
    small = values()
    conditioners = [{"type": "core.scalar", "field": "length"}]
    write(tmp_path, small=small)
    write(tmp_path, other={"base": "small.yaml", "backbone": {"type": "core.flag_dit"}, "conditioners": conditioners})
    recipe = Recipe.load(tmp_path / "other.yaml")
    assert recipe.backbone.options == {} and small["backbone"] != {"type": "core.next_dit"}
    assert [spec.field for spec in recipe.conditioners] == ["length"]


def test_overrides_apply_to_the_merged_recipe_and_the_written_one_has_no_base(tmp_path):
    write(tmp_path, small=values(), large={"base": "small.yaml", "backbone": {"hidden_size": 96}})
    recipe = Recipe.load(tmp_path / "large.yaml", ["backbone.hidden_size=128"])
    written = yaml.safe_load(recipe.to_yaml())
    assert "base" not in written and written["backbone"]["hidden_size"] == 128


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        (
            {"a": {"base": "b.yaml"}, "b": {"base": "a.yaml"}},
            r"base: got a cycle of recipes, .*a\.yaml -> .*b\.yaml -> ",
        ),
        ({"a": {"base": "a.yaml"}}, "base: got a cycle"),
        ({"a": {"base": "absent.yaml"}}, r"cannot read .*absent\.yaml"),
        ({"a": {"base": "core.smal"}}, "recipe: got 'core.smal', expected an installed recipe or a .yaml file"),
        ({"a": {"base": ["b"]}}, r"a\.yaml: base: got \['b'\], expected the name of a recipe"),
        ({"a": {"base": "b.yaml"}, "b": {"lumina": 1}}, r"b\.yaml: got schema version 1"),
    ],
)
def test_a_base_that_is_unknown_old_or_a_cycle_is_refused(tmp_path, recipes, message):
    write(tmp_path, **recipes)
    with pytest.raises(ConfigError, match=message):
        Recipe.load(tmp_path / "a.yaml")


@pytest.mark.parametrize(("name", "hidden_size", "head_dim"), [("image.3b", 3072, 96), ("image.7b", 4096, 128)])
@pytest.mark.needs("lumina_image")
def test_the_larger_sizes_of_the_paper_differ_from_2b_in_the_backbone_alone(name, hidden_size, head_dim):
    large, base = Recipe.load(name), Recipe.load("image.2b")
    assert large.model_copy(update={"backbone": base.backbone}) == base
    assert large.backbone.options["hidden_size"] == hidden_size
    assert (
        sum(large.backbone.options["rope_axes_dim"]) == head_dim == hidden_size // large.backbone.options["num_heads"]
    )


@pytest.mark.parametrize("typed", ["2024-01-05", "2024", "yes", "my photos #2", "[a]", "1e3", "null.txt", "007"])
@pytest.mark.needs("lumina_image")
def test_a_text_of_an_override_is_taken_as_it_was_typed(typed):
    recipe = Recipe.load("image.tiny", ["dataset={type: image.folder}", f"dataset.folder={typed}"])
    assert recipe.dataset.options["folder"] == typed
    assert Recipe.load("image.tiny", [f"training.cache_dir={typed}"]).training.cache_dir == typed
    with pytest.raises(ConfigError, match="steps"):
        Recipe.load("image.tiny", [f"training.steps={typed}.5x"])


@pytest.mark.needs("lumina_image")
def test_other_values_of_overrides_are_yaml():
    overrides = ["training.lr=1e-3", "training.compile=no", "training.betas=[0.5, 0.9]", "training.cache_dir=null"]
    training = Recipe.load("image.tiny", overrides).training
    assert (training.lr, training.compile, training.betas, training.cache_dir) == (1e-3, False, (0.5, 0.9), None)
    recipe = Recipe.load("image.tiny", ["conditioners.0.vocab_size=500", "training.sample_requests.0.prompt=yes"])
    assert recipe.conditioners[0].options["vocab_size"] == 500


@pytest.mark.parametrize(
    "change", ["seed=99999999999999999999", "lr=.inf", "lr=.nan", "betas=[.nan, 0.9]", "ema_decay=.nan"]
)
@pytest.mark.needs("lumina_image")
def test_numbers_out_of_range_are_refused_before_the_training(change):
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        Recipe.load("image.tiny", [f"training.{change}"])
