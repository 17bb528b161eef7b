"""The dry run: it counts, takes one step, and writes nothing."""

from __future__ import annotations

import os

import pytest
import torch
from core.toy import LENGTH, Words, recipe, registry, values

from lumina_core.errors import CheckpointError, ConfigError, PluginError
from lumina_core.model import build_model
from lumina_core.recipe import read_recipe
from lumina_core.training.dry_run import dry_run, estimate_memory


def test_it_reports_components_shapes_and_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_recipe = recipe("word", freeze=["conditioners.word"])
    found = dry_run(toy_recipe, registry())
    model = build_model(toy_recipe, registry())
    assert found.components == tuple(toy_recipe.component_names())
    # by hand: a table of 128 rows of 8 and a linear layer of 8 by 8 with a bias
    assert found.parameters["conditioners.word"] == 128 * 8 + 8 * 8 + 8
    assert sum(found.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert found.trainable_parameters == sum(found.parameters.values()) - found.parameters["conditioners.word"]
    assert (found.examples, found.data_shape, found.token_shape) == (7, (2, LENGTH), (LENGTH, 2))
    assert found.loss > 0
    assert found.step_seconds > 0
    assert os.listdir(tmp_path) == []


def test_memory_grows_with_the_micro_batch():
    model = build_model(recipe(), registry())
    whole, halves = (
        estimate_memory(model, recipe(global_batch_size=64, gradient_accumulation_steps=parts), 6) for parts in (1, 2)
    )
    weights = 4 * 5 * sum(p.numel() for p in model.parameters())
    assert whole > halves > weights
    assert whole - weights == 2 * (halves - weights)


def test_a_dry_run_refuses_missing_data_and_unknown_components_like_a_training():
    with pytest.raises(ConfigError, match="dataset: got none, expected a data set"):
        dry_run(read_recipe({**values(), "dataset": None}, "toy"), registry())
    with pytest.raises(PluginError, match=r"did you mean 'core\.next_dit'"):
        dry_run(read_recipe({**values(), "backbone": {"type": "core.next_dti"}}, "toy"), registry())


def test_a_backbone_option_that_does_not_exist_is_named_with_its_nearest():
    plain = values()
    plain["backbone"]["hidden_szie"] = 3
    with pytest.raises(ConfigError, match="'hidden_szie'; did you mean 'hidden_size'"):
        dry_run(read_recipe(plain, "toy"), registry())


def test_external_weights_are_checked_before_anything_large_is_built():
    plain = values()
    plain["conditioners"] = [
        {"field": "word", "type": "core.transformers", "source": "./no/such/folder", "hidden_size": 2048}
    ]
    plain["backbone"]["hidden_size"] = 2**20  # too large for any machine
    with pytest.raises(CheckpointError, match=r"there is no folder \./no/such/folder"):
        dry_run(read_recipe(plain, "toy"), registry())


def test_it_counts_truncated_values(monkeypatch):
    monkeypatch.setattr(Words, "truncated_text", lambda self, value: value[4:], raising=False)
    (line,) = dry_run(recipe("word"), registry()).truncation_notes
    assert line == "1 of 3 values of 'word' are truncated; cut off: 'le'"


def test_one_tensor_under_two_names_is_refused_before_the_training(tmp_path):
    from lumina_core.training.trainer import check_untied

    module = torch.nn.ModuleDict({"table": torch.nn.Embedding(8, 4), "out": torch.nn.Linear(4, 8, bias=False)})
    check_untied(module)
    module["out"].weight = module["table"].weight
    with pytest.raises(ConfigError, match=r"one tensor under two names, table\.weight and out\.weight"):
        check_untied(module)
