"""Numbers through the summary: every number has a vector of its own, nothing said is silence, and ranges hold."""

from __future__ import annotations

import pytest
import torch

from lumina_core.conditioning.scalar import ScalarConditioner
from lumina_core.errors import ConfigError


def conditioner(**options):
    torch.manual_seed(0)
    return ScalarConditioner(ScalarConditioner.Config(**{"min": 0.0, "max": 10.0, "hidden_size": 8, **options}))


def summary(made, *values):
    return made.encode(list(values)).pooled


def test_none_is_silence_and_a_number_in_the_same_batch_is_not():
    made = conditioner()
    said = summary(made, None, 3.0, None)
    assert said.shape == (3, 8) and made.encode([3]).context is None
    assert torch.equal(said[[0, 2]], made.null_condition(2).pooled)
    assert not torch.allclose(said[1], said[0])


def test_numbers_a_hundredth_of_the_range_apart_differ_as_the_ends_do():
    made = conditioner()
    assert float((summary(made, 5.0) - summary(made, 5.1)).detach().abs().max()) > 1e-3
    assert float((summary(made, 0) - summary(made, 10)).detach().abs().max()) > 1e-3


def test_an_octave_is_the_same_step_everywhere_on_a_logarithm():
    made = conditioner(min=55.0, max=880.0, scale="log")
    places = [made._normalize(value) for value in (55.0, 110.0, 220.0, 440.0, 880.0)]
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan"), float("inf"), "3", True])
def test_what_lies_outside_or_is_no_number_is_refused_with_range_and_unit(wrong):
    with pytest.raises(ConfigError, match=r"got .*, expected a number from 0 to 10 seconds"):
        conditioner(unit="seconds").encode([1.0, wrong])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min": 2.0, "max": 2.0}, "expected a number above min 2"),
        ({"min": 0.0, "scale": "log"}, "above 0"),
        ({"num_frequencies": 0}, "num_frequencies"),
    ],
)
def test_a_range_that_is_none_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        ScalarConditioner.Config.read({"max": 4.0, **options}, "conditioner")


def test_silence_learns_from_what_was_left_out_alone():
    made = conditioner()
    made.encode([1.0, 2.0]).pooled.sum().backward()
    assert not bool(made.null_embedding.grad.any())
    made.encode([None, 2.0]).pooled.sum().backward()
    assert made.null_embedding.grad.tolist() == [1.0] * 8


def test_a_summary_keeps_the_number_format_of_its_weights():
    assert summary(conditioner().to(torch.bfloat16), 1.5, None).dtype == torch.bfloat16
