"""Contrastive pretraining: the right example is predicted, and equal examples are no negatives."""

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


def loss(predicted, values, negatives=None, **settings):
    task = ContrastivePretraining(ContrastivePretraining.Config(**settings))
    if negatives is not None:
        task.set_negatives(negatives)
    return task.loss(lambda *_: predicted, batch(values), [])


def test_a_perfect_prediction_has_almost_no_loss():
    found = loss(data(), data())
    assert float(found.terms["error"]) == 0
    assert float(found.total) < 1e-6


def test_the_error_is_the_mean_square():
    found = loss(data() + 0.5, data(), contrastive_weight=0.0)
    assert float(found.total) == pytest.approx(0.25, rel=1e-5)


def test_predicting_another_example_costs_the_contrast():
    right, wrong = (loss(f, data()).terms["contrast"] for f in (data(), data().roll(1, 0)))
    assert float(wrong) > 10 > 1 > float(right)


def test_an_uninformed_prediction_costs_the_logarithm_of_the_number_of_examples():
    # all data equally far from what is predicted: one right among six
    values = torch.eye(6).reshape(6, 2, 3)
    values[1:, 0, 0] = -1e-4 * torch.arange(1, 6)  # the first number tells data apart
    found = loss(torch.zeros_like(values), values)
    assert float(found.terms["contrast"]) == pytest.approx(math.log(6), rel=1e-4)


def test_equal_examples_are_no_negatives():
    values = data(1).expand(5, -1, -1)
    assert float(loss(values + 0.3, values).terms["contrast"]) == pytest.approx(0, abs=1e-6)


def test_negatives_of_the_data_set_replace_those_of_the_batch():
    values = data(2)
    few, many = loss(torch.zeros(2, 4, 3), values), loss(torch.zeros(2, 4, 3), values, data(50, seed=1))
    assert float(many.terms["contrast"]) > float(few.terms["contrast"])


def test_with_negatives_of_the_data_set_the_loss_of_an_item_does_not_depend_on_its_neighbours():
    values, predictions, negatives = data(4), data(4, seed=3), data(20, seed=4)
    alone = [float(loss(predictions[k : k + 1], values[k : k + 1], negatives).total) for k in range(4)]
    assert float(loss(predictions, values, negatives).total) == pytest.approx(sum(alone) / 4, rel=1e-4)


def test_predictions_of_another_shape_than_the_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"shape \(3, 3\), expected that of the tokens, \(4, 3\)"):
        loss(torch.zeros(6, 3, 3), data())


def test_generation_from_the_objective_is_refused():
    with pytest.raises(ConfigError, match="got a request to generate"):
        ContrastivePretraining(ContrastivePretraining.Config()).velocity(data(), data(), torch.zeros(6))
