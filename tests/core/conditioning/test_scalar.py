"""Scalar conditioner: distinct vectors, None as null condition, and checked ranges."""

from __future__ import annotations

import pytest
import torch

from lumina_core.conditioning.scalar import ScalarConditioner
from lumina_core.errors import ConfigError


def make_conditioner(**options):
    torch.manual_seed(0)
    return ScalarConditioner(ScalarConditioner.Config(**{"min": 0.0, "max": 10.0, "hidden_size": 8, **options}))


def pooled_of(conditioner, *values):
    return conditioner.encode(list(values)).pooled


def test_none_is_encoded_as_the_null_condition():
    conditioner = make_conditioner()
    condition = pooled_of(conditioner, None, 3.0, None)
    assert condition.shape == (3, 8) and conditioner.encode([3]).context is None
    assert torch.equal(condition[[0, 2]], conditioner.null_condition(2).pooled)
    assert not torch.allclose(condition[1], condition[0])


def test_numbers_a_hundredth_of_the_range_apart_are_distinguished():
    conditioner = make_conditioner()
    assert float((pooled_of(conditioner, 5.0) - pooled_of(conditioner, 5.1)).detach().abs().max()) > 1e-3
    assert float((pooled_of(conditioner, 0) - pooled_of(conditioner, 10)).detach().abs().max()) > 1e-3


def test_octaves_are_equal_steps_on_a_log_scale():
    conditioner = make_conditioner(min=55.0, max=880.0, scale="log")
    positions = [conditioner._normalize(value) for value in (55.0, 110.0, 220.0, 440.0, 880.0)]
    assert positions == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan"), float("inf"), "3", True])
def test_an_invalid_value_is_reported_with_range_and_unit(wrong):
    with pytest.raises(ConfigError, match=r"got .*, expected a number from 0 to 10 seconds"):
        make_conditioner(unit="seconds").encode([1.0, wrong])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min": 2.0, "max": 2.0}, "expected a number above min 2"),
        ({"min": 0.0, "scale": "log"}, "above 0"),
        ({"num_frequencies": 0}, "num_frequencies"),
    ],
)
def test_an_invalid_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ScalarConditioner.Config.read({"max": 4.0, **options}, "conditioner")


def test_the_null_embedding_has_gradients_from_none_only():
    conditioner = make_conditioner()
    conditioner.encode([1.0, 2.0]).pooled.sum().backward()
    assert not bool(conditioner.null_embedding.grad.any())
    conditioner.encode([None, 2.0]).pooled.sum().backward()
    assert conditioner.null_embedding.grad.tolist() == [1.0] * 8


def test_the_pooled_vector_has_the_dtype_of_the_weights():
    assert pooled_of(make_conditioner().to(torch.bfloat16), 1.5, None).dtype == torch.bfloat16
