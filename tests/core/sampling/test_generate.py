"""Generation: an item depends on its own request and seed, on nobody beside it, and evaluations are counted."""

from __future__ import annotations

import pytest
import torch
from core.toy import LENGTH, ToyRequest, recipe, registry, values

from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError, PluginError
from lumina_core.model import build_model
from lumina_core.recipe import read_recipe
from lumina_core.sampling.generate import generate_batch


def model(conditioner="word", **changes):
    """A model whose weights are random throughout: fresh ones would answer zero."""
    torch.manual_seed(0)
    made = build_model(read_recipe({**values(conditioner), **changes}, "toy"), registry()).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.3)
    return made


MODEL = model()


def ask(*requests, of=MODEL, on_step=None):
    return generate_batch(of, registry(), [ToyRequest(**request) for request in requests], on_step)


def test_the_same_request_gives_the_same_result_and_another_seed_another():
    one, again, other = (ask({"word": "low", "seed": seed}).data for seed in (1, 1, 2))
    assert one.shape == (1, 2, LENGTH)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_is_said_decides_the_result():
    assert float((ask({"word": "low"}).data - ask({"word": "high"}).data).abs().max()) > 1e-3


def test_an_item_is_the_same_in_every_company():
    asked = [{"word": "low", "seed": 3}, {"word": "middle", "seed": 1}, {"word": "high", "seed": 2, "count": 2}]
    together = ask(*asked).data
    alone = torch.cat([ask(request).data for request in asked])
    assert together.shape == (4, 2, LENGTH)
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)


def test_the_kth_of_several_has_the_seed_plus_k():
    found = ask({"word": "low", "seed": 5, "count": 3})
    assert found.seeds == (5, 6, 7)
    assert found.data[2].numpy() == pytest.approx(ask({"word": "low", "seed": 7}).data[0].numpy(), abs=1e-4)


@pytest.mark.parametrize(("solver", "a_step"), [("euler", 1), ("midpoint", 2), ("core.heun", 2), ("rk4", 4)])
def test_evaluations_are_counted_and_settings_recorded(solver, a_step):
    asked = {"word": "low", "steps": 3, "solver": solver, "schedule": "shift", "guidance_scale": 1.5}
    found = ask(asked)
    assert found.nfe == found.metadata()["nfe"] == 3 * a_step
    settings = found.settings
    assert (settings.steps, settings.solver, settings.schedule, settings.guidance_scale) == (
        3,
        solver,
        "shift_schedule",
        1.5,
    )
    assert found.generation_seconds > 0
    # the record stands in the file: the same request must give the same file
    assert found.metadata() == ask(asked).metadata()


def test_what_is_left_open_comes_from_the_recipe():
    settings = ask({"word": "low"}).settings
    assert (settings.steps, settings.guidance_scale, settings.solver) == (3, 2.0, "core.midpoint")


def test_guidance_of_one_is_the_conditional_flow_and_ignores_the_negative():
    plain = ask({"word": "low", "guidance_scale": 1}).data
    assert torch.equal(ask({"word": "low", "guidance_scale": 1, "negative_word": "high"}).data, plain)
    nearly = ask({"word": "low", "guidance_scale": 1.0001}).data
    assert nearly.numpy() == pytest.approx(plain.numpy(), abs=1e-2)


def test_a_negative_takes_the_place_of_silence():
    with_silence, with_word = (
        ask({"word": "low", "guidance_scale": 3, **more}).data for more in ({}, {"negative_word": "high"})
    )
    assert not torch.equal(with_silence, with_word)
    # away from what is itself said there is no direction
    same = ask({"word": "low", "guidance_scale": 3, "negative_word": "low"}).data
    assert same.numpy() == pytest.approx(ask({"word": "low", "guidance_scale": 1}).data.numpy(), abs=1e-4)


def test_only_the_first_channels_are_guided_where_the_recipe_says_so():
    sampling = {"steps": 1, "solver": "core.euler", "guidance_scale": 3.0}
    of = model(sampling={**sampling, "guidance_channels": 1})
    some = ask({"word": "low"}, of=of).data
    every = ask({"word": "low"}, of=model(sampling=sampling)).data
    none = ask({"word": "low", "guidance_scale": 1}, of=of).data
    # after a single step the channels have not met yet
    assert some[:, 0].numpy() == pytest.approx(every[:, 0].numpy(), abs=1e-5)
    assert some[:, 1].numpy() == pytest.approx(none[:, 1].numpy(), abs=1e-5)
    assert float((some - none)[:, 0].abs().max()) > 1e-4


def test_another_size_can_be_asked_for():
    assert ask({"word": "low", "length": 9}).data.shape == (1, 2, 9)


@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
def test_a_fresh_model_of_any_prediction_gives_finite_data(prediction):
    asked = recipe().model_copy(update={"objective": ComponentSpec(type="core.flow_matching", prediction=prediction)})
    made = build_model(asked, registry()).eval()
    assert bool(generate_batch(made, registry(), [ToyRequest(label=1)]).data.isfinite().all())


@pytest.mark.parametrize("change", [{"steps": 4}, {"guidance_scale": 1.0}, {"solver": "euler"}, {"schedule": "shift"}])
def test_requests_that_disagree_are_refused(change):
    with pytest.raises(ConfigError, match="requests: got several settings"):
        ask({"word": "low"}, {"word": "low", **change})


def test_requests_of_which_only_some_say_something_are_refused():
    with pytest.raises(ConfigError, match="word: got a value for some requests"):
        ask({"word": "low"}, {})


def test_what_the_model_was_not_built_for_is_refused():
    with pytest.raises(ConfigError, match="condition: got 'label', expected fields with a conditioner"):
        ask({"label": 1})
    with pytest.raises(PluginError, match="did you mean 'midpoint'"):
        ask({"word": "low", "solver": "midpiont"})
    with pytest.raises(PluginError):
        ask({"word": "low", "schedule": "wavy"})


def test_generation_changes_no_weight():
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    ask({"word": "low"})
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())


def test_published_regional_guidance_of_one_request_leaves_the_others_unchanged(monkeypatch):
    """The negative pooled vector is shared with the positive one for requests with that option alone."""
    from lumina_core.sampling.inputs import (
        NO_INPUTS,
        apply_regional_prompts,
        encode_cond,
        encode_uncond,
        expand_requests,
    )
    from lumina_core.types import RegionalPrompts

    made = model("label")
    requests = [ToyRequest(label=1), ToyRequest(label=2)]
    weights = torch.ones(1, LENGTH)
    monkeypatch.setattr(
        type(made.task),
        "regions",
        lambda self, request: RegionalPrompts({"label": [1]}, weights, True) if request.label == 1 else None,
    )
    # a label has no context to be read by regions; only the pooled vectors matter here
    monkeypatch.setattr("lumina_core.sampling.inputs.combine_regions", lambda conds, weights, cond: cond)
    items = expand_requests(made.task, requests)
    cond, uncond = encode_cond(made, items, NO_INPUTS), encode_uncond(made, items, NO_INPUTS)
    _, shared = apply_regional_prompts(made, items, cond, uncond, (LENGTH,))
    assert torch.equal(shared.pooled[0], cond.pooled[0])
    assert torch.equal(shared.pooled[1], uncond.pooled[1])
