"""Which optimizer moves which weights, and the shape of the rate over the steps."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.recipe import TrainingConfig
from lumina_core.training.optim import Muon, build_optimizers, lr_factor


def shares(**settings):
    training = TrainingConfig(**{"steps": 100, "warmup_steps": 0, **settings})
    return [lr_factor(step, training) for step in range(training.steps)]


def moved(optimizers):
    return [id(p) for member in optimizers.optimizers for group in member.param_groups for p in group["params"]]


def test_the_rate_rises_in_a_line_to_its_peak():
    found = shares(warmup_steps=9)
    assert found[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert set(found[10:]) == {1.0}


def test_the_rate_falls_in_a_line_after_its_share_of_the_steps():
    found = shares(lr_decay="linear", decay_start=0.6)
    assert set(found[:61]) == {1.0}
    assert found[80] == pytest.approx(0.5)
    assert 0 < found[-1] == pytest.approx(1 / 40)


def test_the_rate_falls_as_a_cosine():
    found = shares(lr_decay="cosine")
    assert found[50] == pytest.approx(0.5)
    assert found[25] == pytest.approx(0.853553, abs=1e-6)  # (1 + cos 45 degrees) / 2
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trained_weight_is_moved_by_exactly_one_optimizer(name):
    model = build_model(recipe("word", optimizer=name), registry())
    taken = moved(build_optimizers(model, model.recipe.training))
    assert len(taken) == len(set(taken))
    assert set(taken) == {id(p) for p in model.parameters()}


def test_muon_takes_the_matrices_of_the_blocks_and_no_embedding_head_or_modulation():
    model = build_model(recipe("word", optimizer="muon"), registry())
    muon = next(m for m in build_optimizers(model, model.recipe.training).optimizers if isinstance(m, Muon))
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert "backbone.blocks.0.attention.qkv.weight" in taken
    assert "backbone.blocks.1.feed_forward.out.weight" in taken
    assert "backbone.time_embed.inner.weight" in taken
    assert not [
        name for name in taken if ".embed." in name or "table" in name or "modulation" in name or "head" in name
    ]


def test_norms_gates_and_biases_do_not_decay():
    model = build_model(recipe(weight_decay=0.1), registry())
    for member in build_optimizers(model, model.recipe.training).optimizers:
        for group in member.param_groups:
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_weights_can_have_a_rate_of_their_own_by_a_part_of_their_name():
    model = build_model(recipe(lr=1e-3, lr_overrides={"table": 5e-2}), registry())
    rates = {id(p): group["lr"] for m in build_optimizers(model, model.recipe.training).optimizers
             for group in m.param_groups for p in group["params"]}  # fmt: skip
    assert rates[id(model.conditioners["label"].table.weight)] == 5e-2
    assert rates[id(model.backbone.embed.weight)] == 1e-3


def test_a_rate_for_a_name_that_no_weight_has_is_refused():
    model = build_model(recipe(lr_overrides={"gaet": 1e-2}), registry())
    with pytest.raises(ConfigError, match="gaet"):
        build_optimizers(model, model.recipe.training)


def test_a_share_is_of_the_peak_and_not_of_the_last_rate():
    model = build_model(recipe(lr=0.5), registry())
    optimizers = build_optimizers(model, model.recipe.training)
    for share in (0.5, 0.1, 1.0):
        optimizers.set_lr_factor(share)
        assert {group["lr"] for m in optimizers.optimizers for group in m.param_groups} == {0.5 * share}


def test_a_model_in_which_all_is_frozen_is_refused():
    model = build_model(recipe(), registry()).requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        build_optimizers(model, model.recipe.training)


def test_clearing_forgets_the_gradients():
    model = build_model(recipe(), registry())
    optimizers = build_optimizers(model, model.recipe.training)
    model.backbone.embed.weight.grad = torch.ones_like(model.backbone.embed.weight)
    optimizers.zero_grad()
    assert all(p.grad is None for p in model.parameters())
