"""Alignment: who foretells the data is right, and equal data are no mistake."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.training.objectives import ContrastivePretraining
from lumina_core.types import Batch, Condition, Tokens


def batch(values):
    return Batch(Tokens(values, torch.zeros(*values.shape[:2], 3), ((values.shape[1],),) * len(values)), Condition())


def data(count=6, seed=0):
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(seed))


def loss(foretold, values, others=None, **settings):
    task = ContrastivePretraining(ContrastivePretraining.Config(**settings))
    if others is not None:
        task.set_negatives(others)
    return task.loss(lambda *_: foretold, batch(values), [])


def test_who_foretells_the_data_has_almost_no_loss():
    found = loss(data(), data())
    assert float(found.terms["error"]) == 0
    assert float(found.total) < 1e-6


def test_the_error_is_the_mean_square():
    found = loss(data() + 0.5, data(), contrastive_weight=0.0)
    assert float(found.total) == pytest.approx(0.25, rel=1e-5)


def test_to_foretell_anothers_data_costs_the_contrast():
    right, wrong = (loss(f, data()).terms["contrast"] for f in (data(), data().roll(1, 0)))
    assert float(wrong) > 10 > 1 > float(right)


def test_without_knowledge_the_contrast_is_the_logarithm_of_the_choices():
    # all data equally far from what is foretold: one right among six
    values = torch.eye(6).reshape(6, 2, 3)
    values[1:, 0, 0] = -1e-4 * torch.arange(1, 6)  # the first number tells data apart
    found = loss(torch.zeros_like(values), values)
    assert float(found.terms["contrast"]) == pytest.approx(math.log(6), rel=1e-4)


def test_equal_data_are_no_mistake():
    values = data(1).expand(5, -1, -1)
    assert float(loss(values + 0.3, values).terms["contrast"]) == pytest.approx(0, abs=1e-6)


def test_what_was_surveyed_takes_the_place_of_the_batch():
    values = data(2)
    few, many = loss(torch.zeros(2, 4, 3), values), loss(torch.zeros(2, 4, 3), values, data(50, seed=1))
    assert float(many.terms["contrast"]) > float(few.terms["contrast"])


def test_the_loss_of_an_item_does_not_depend_on_its_company_once_data_are_surveyed():
    values, said, others = data(4), data(4, seed=3), data(20, seed=4)
    alone = [float(loss(said[k : k + 1], values[k : k + 1], others).total) for k in range(4)]
    assert float(loss(said, values, others).total) == pytest.approx(sum(alone) / 4, rel=1e-4)


def test_slots_that_are_not_the_tokens_of_the_data_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 3\) numbers, the data has tokens of \(4, 3\)"):
        loss(torch.zeros(6, 3, 3), data())


def test_nothing_can_be_generated_by_it():
    with pytest.raises(ConfigError, match="cannot generate"):
        ContrastivePretraining(ContrastivePretraining.Config()).velocity(data(), data(), torch.zeros(6))
