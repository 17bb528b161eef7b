"""Conditioners may give a vector per token and reference tokens: through model building, loss and guidance."""

from __future__ import annotations

import pytest
import torch
from core.toy import CHANNELS, LENGTH, recipe, registry
from torch import nn

from lumina_core.conditioning.ops import choose, stack
from lumina_core.config import Config as Settings
from lumina_core.model import build_model
from lumina_core.protocols import Conditioner
from lumina_core.types import Batch, Condition, Tokens, stack_tokens


class Control(Conditioner):
    """Conditioner: a control signal of three numbers per token."""

    class Config(Settings):
        pass

    token_condition_dim = 3

    def __init__(self, config):
        self.config = config

    def encode(self, values):
        return Condition(token_condition=torch.stack(list(values)))

    def null_condition(self, batch):
        return Condition(token_condition=torch.zeros(batch, LENGTH, 3))


class KnownSignal(nn.Module, Conditioner):
    """Conditioner: another signal as reference tokens; without one, none."""

    class Config(Settings):
        pass

    def __init__(self, config):
        super().__init__()
        self.pooled_dim = 1

    def encode(self, values):
        rows = [
            Tokens(v.T[None], torch.arange(float(v.shape[1]))[None, :, None].expand(1, -1, 3) + 1, ((v.shape[1],),))
            for v in values
        ]
        return Condition(pooled=torch.ones(len(rows), 1), reference=stack_tokens(rows))

    def null_condition(self, batch):
        return Condition(pooled=torch.zeros(batch, 1))


class Components:
    def find(self, component_type, name):
        own = {"mine.control": Control, "mine.known": KnownSignal}
        return own.get(name) or registry().find(component_type, name)


@pytest.fixture
def model():
    options = recipe("label").model_dump(exclude_defaults=True)
    options["conditioners"] = [{"field": "control", "type": "mine.control"}, {"field": "known", "type": "mine.known"}]
    torch.manual_seed(0)
    built = build_model(type(recipe("label")).read(options, "test"), Components())
    for parameter in (*built.head.parameters(), *built.backbone.parameters()):
        nn.init.normal_(parameter, std=0.2)
    return built


def make_values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_backbone_gets_the_width_of_the_conditioners(model):
    assert model.backbone.config.token_condition_dim == 3
    assert model.backbone.token_condition_embed.weight.shape == (model.backbone.config.hidden_size, 3)


def test_a_training_step_with_dropped_conditions_reaches_the_projection(model):
    values = {
        "control": list(make_values(4, LENGTH, 3)),
        "known": [make_values(CHANNELS, n, seed=n) for n in (2, 5, 3, 4)],
    }
    condition = choose(
        torch.tensor([True, False, True, False]), model.encode_condition(values, 4), model.null_condition(4)
    )
    assert condition.reference.mask.sum(1).tolist() == [2, 0, 3, 0]
    tokens = model.tokenizer.patchify(make_values(4, CHANNELS, LENGTH, seed=9))
    generators = [torch.Generator().manual_seed(k) for k in range(4)]
    loss = model.objective.loss(model.predict, Batch(tokens, condition), generators).total
    loss.backward()
    assert loss.isfinite() and model.backbone.token_condition_embed.weight.grad.abs().max() > 0


@torch.no_grad()
def test_both_halves_of_guidance_in_one_batch_equal_each_alone(model):
    values = {"control": [make_values(LENGTH, 3)], "known": [make_values(CHANNELS, 4, seed=4)]}
    cond, uncond = model.encode_condition(values, 1), model.null_condition(1)
    tokens, t = model.tokenizer.patchify(make_values(1, CHANNELS, LENGTH, seed=9)), torch.tensor([0.4])
    batched = model.velocity(stack_tokens([tokens, tokens]), t.expand(2), stack([cond, uncond]))
    for row, condition in zip(batched, (cond, uncond), strict=True):
        assert torch.allclose(row, model.velocity(tokens, t, condition)[0], atol=1e-5)
    assert (batched[0] - batched[1]).abs().max() > 1e-3
