"""Optimizers of the weights, and the learning rate over the steps."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.recipe import TrainingConfig
from lumina_core.training.optim import Muon, build_optimizers, lr_factor


def factors(**settings):
    training = TrainingConfig(**{"steps": 100, "warmup_steps": 0, **settings})
    return [lr_factor(step, training) for step in range(training.steps)]


def updated_ids(optimizers):
    return [id(p) for member in optimizers.optimizers for group in member.param_groups for p in group["params"]]


def test_the_learning_rate_warms_up_linearly():
    found = factors(warmup_steps=9)
    assert found[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert set(found[10:]) == {1.0}


def test_linear_decay_starts_after_its_fraction_of_the_steps():
    found = factors(lr_decay="linear", decay_start=0.6)
    assert set(found[:61]) == {1.0}
    assert found[80] == pytest.approx(0.5)
    assert 0 < found[-1] == pytest.approx(1 / 40)


def test_cosine_decay():
    found = factors(lr_decay="cosine")
    assert found[50] == pytest.approx(0.5)
    assert found[25] == pytest.approx(0.853553, abs=1e-6)  # (1 + cos 45 degrees) / 2
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_exactly_one_optimizer_updates_each_trained_weight(name):
    model = build_model(recipe("word", optimizer=name), registry())
    updated = updated_ids(build_optimizers(model, model.recipe.training))
    assert len(updated) == len(set(updated))
    assert set(updated) == {id(p) for p in model.parameters()}


def test_muon_updates_matrices_of_blocks_and_no_embedding_head_or_modulation():
    model = build_model(recipe("word", optimizer="muon"), registry())
    muon = next(m for m in build_optimizers(model, model.recipe.training).optimizers if isinstance(m, Muon))
    names = {id(p): name for name, p in model.named_parameters()}
    updated = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert "backbone.blocks.0.attention.qkv.weight" in updated
    assert "backbone.blocks.1.feed_forward.out.weight" in updated
    assert "backbone.time_embed.inner.weight" in updated
    assert not [
        name for name in updated if ".embed." in name or "table" in name or "modulation" in name or "head" in name
    ]


def test_muon_updates_convolutions_that_mix_channels_and_no_depthwise_ones():
    model = torch.nn.ModuleDict({"mixing": torch.nn.Conv2d(4, 6, 3), "depthwise": torch.nn.Conv2d(6, 6, 3, groups=6)})
    optimizers = build_optimizers(model, TrainingConfig(steps=1, optimizer="muon"))
    muon = next(m for m in optimizers.optimizers if isinstance(m, Muon))
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [id(model["mixing"].weight)]


def test_norms_gates_and_biases_do_not_decay():
    model = build_model(recipe(weight_decay=0.1), registry())
    for member in build_optimizers(model, model.recipe.training).optimizers:
        for group in member.param_groups:
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_an_override_sets_the_learning_rate_of_weights_by_substring_of_their_name():
    model = build_model(recipe(lr=1e-3, lr_overrides={"table": 5e-2}), registry())
    rates = {id(p): group["lr"] for m in build_optimizers(model, model.recipe.training).optimizers
             for group in m.param_groups for p in group["params"]}  # fmt: skip
    assert rates[id(model.conditioners["label"].table.weight)] == 5e-2
    assert rates[id(model.backbone.embed.weight)] == 1e-3


def test_an_override_that_matches_no_weight_is_refused():
    model = build_model(recipe(lr_overrides={"gaet": 1e-2}), registry())
    with pytest.raises(ConfigError, match="gaet"):
        build_optimizers(model, model.recipe.training)


def test_a_factor_multiplies_the_peak_and_not_the_last_learning_rate():
    model = build_model(recipe(lr=0.5), registry())
    optimizers = build_optimizers(model, model.recipe.training)
    for share in (0.5, 0.1, 1.0):
        optimizers.set_lr_factor(share)
        assert {group["lr"] for m in optimizers.optimizers for group in m.param_groups} == {0.5 * share}


def test_a_frozen_model_is_refused():
    model = build_model(recipe(), registry()).requires_grad_(False)
    with pytest.raises(ConfigError, match=r"training\.freeze: got every weight"):
        build_optimizers(model, model.recipe.training)


def test_zero_grad_deletes_gradients():
    model = build_model(recipe(), registry())
    optimizers = build_optimizers(model, model.recipe.training)
    model.backbone.embed.weight.grad = torch.ones_like(model.backbone.embed.weight)
    optimizers.zero_grad()
    assert all(p.grad is None for p in model.parameters())
