"""Class label conditioner: one row per class and one for the null condition."""

from __future__ import annotations

import pytest
import torch

from lumina_core.conditioning.class_label import ClassLabelConditioner
from lumina_core.errors import ConfigError


def conditioner():
    return ClassLabelConditioner(ClassLabelConditioner.Config(num_classes=4, hidden_size=6))


def test_every_class_and_the_null_condition_have_different_rows():
    made = conditioner()
    rows = torch.cat([made.encode([0, 1, 2, 3]).pooled, made.null_condition(1).pooled])
    assert rows.shape == (5, 6)
    assert len({tuple(row.tolist()) for row in rows}) == 5
    assert made.encode([2, 0, 2]).context is None


def test_rows_are_in_the_order_of_the_values():
    made = conditioner()
    both = made.encode([3, 1]).pooled
    assert torch.equal(both[0], made.encode([3]).pooled[0])
    assert torch.equal(both[1], made.encode([1]).pooled[0])


@pytest.mark.parametrize("wrong", [-1, 4, 1.0, "1", None])
def test_an_invalid_class_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected an integer from 0 to 3"):
        conditioner().encode([0, wrong])


def test_only_rows_of_encoded_classes_have_gradients():
    made = conditioner()
    made.encode([1, 1]).pooled.sum().backward()
    assert made.table.weight.grad[1].tolist() == [2.0] * 6
    assert not bool(made.table.weight.grad[[0, 2, 3, 4]].any())


def test_a_class_is_requested_by_name_whatever_its_capitals():
    config = ClassLabelConditioner.Config(num_classes=3, hidden_size=4, class_names=("red_square", "Triangle"))
    conditioner = ClassLabelConditioner(config)
    rows = conditioner.encode(["red square", "triangle", 1, 0]).pooled
    assert torch.equal(rows[0], rows[3]) and torch.equal(rows[1], rows[2])
    with pytest.raises(ConfigError, match="did you mean 'Triangle'"):
        conditioner.encode(["triangel"])
    with pytest.raises(ConfigError, match="expected an integer from 0 to 2"):
        ClassLabelConditioner(ClassLabelConditioner.Config(num_classes=3, hidden_size=4)).encode(["triangle"])
    with pytest.raises(ConfigError, match="num_classes: got 1, expected at least 2"):
        ClassLabelConditioner(ClassLabelConditioner.Config(num_classes=1, class_names=("a", "b")))
