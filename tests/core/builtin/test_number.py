"""Numbers through the summary: every number has a vector of its own, nothing said is silence, and ranges hold."""

from __future__ import annotations

import pytest
import torch

from lumina_core.builtin.number import NumberConditioner
from lumina_core.errors import ConfigError


def conditioner(**options):
    torch.manual_seed(0)
    return NumberConditioner(NumberConditioner.Config(**{"low": 0.0, "high": 10.0, "width": 8, **options}))


def summary(made, *values):
    return made.encode(list(values)).summary


def test_none_is_silence_and_a_number_in_the_same_batch_is_not():
    made = conditioner()
    said = summary(made, None, 3.0, None)
    assert said.shape == (3, 8) and made.encode([3]).memory is None
    assert torch.equal(said[[0, 2]], made.nothing(2).summary)
    assert not torch.allclose(said[1], said[0])


def test_numbers_a_hundredth_of_the_range_apart_differ_as_the_ends_do():
    made = conditioner()
    assert float((summary(made, 5.0) - summary(made, 5.1)).detach().abs().max()) > 1e-3
    assert float((summary(made, 0) - summary(made, 10)).detach().abs().max()) > 1e-3


def test_an_octave_is_the_same_step_everywhere_on_a_logarithm():
    made = conditioner(low=55.0, high=880.0, scale="logarithm")
    places = [made._place(value) for value in (55.0, 110.0, 220.0, 440.0, 880.0)]
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan"), float("inf"), "3", True])
def test_what_lies_outside_or_is_no_number_is_refused_with_range_and_unit(wrong):
    with pytest.raises(ConfigError, match=r"from 0 to 10 seconds; got"):
        conditioner(unit="seconds").encode([1.0, wrong])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 2.0, "high": 2.0}, "larger high"),
        ({"low": 0.0, "scale": "logarithm"}, "above 0"),
        ({"waves": 0}, "waves"),
    ],
)
def test_a_range_that_is_none_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        NumberConditioner.Config.read({"high": 4.0, **options}, "conditioner")


def test_silence_learns_from_what_was_left_out_alone():
    made = conditioner()
    made.encode([1.0, 2.0]).summary.sum().backward()
    assert not bool(made.silence.grad.any())
    made.encode([None, 2.0]).summary.sum().backward()
    assert made.silence.grad.tolist() == [1.0] * 8


def test_a_summary_keeps_the_number_format_of_its_weights():
    assert summary(conditioner().to(torch.bfloat16), 1.5, None).dtype == torch.bfloat16
