"""Generation: an item depends only on its own request and seed, and evaluations are counted."""

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
    """A model with random weights everywhere; initial weights would give zeros."""
    torch.manual_seed(0)
    made = build_model(read_recipe({**values(conditioner), **changes}, "toy"), registry()).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.3)
    return made


MODEL = model()


def generate_toy(*requests, of=MODEL, on_step=None):
    return generate_batch(of, registry(), [ToyRequest(**request) for request in requests], on_step)


def test_the_same_request_gives_the_same_result_and_another_seed_another():
    one, again, other = (generate_toy({"word": "low", "seed": seed}).data for seed in (1, 1, 2))
    assert one.shape == (1, 2, LENGTH)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_condition_changes_the_result():
    assert float((generate_toy({"word": "low"}).data - generate_toy({"word": "high"}).data).abs().max()) > 1e-3


def test_an_item_does_not_depend_on_the_rest_of_its_batch():
    options = [{"word": "low", "seed": 3}, {"word": "middle", "seed": 1}, {"word": "high", "seed": 2, "count": 2}]
    together = generate_toy(*options).data
    alone = torch.cat([generate_toy(request).data for request in options])
    assert together.shape == (4, 2, LENGTH)
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)


def test_result_k_of_a_request_has_seed_plus_k():
    found = generate_toy({"word": "low", "seed": 5, "count": 3})
    assert found.seeds == (5, 6, 7)
    assert found.data[2].numpy() == pytest.approx(generate_toy({"word": "low", "seed": 7}).data[0].numpy(), abs=1e-4)


@pytest.mark.parametrize(("solver", "a_step"), [("euler", 1), ("midpoint", 2), ("core.heun", 2), ("rk4", 4)])
def test_evaluations_are_counted_and_settings_recorded(solver, a_step):
    options = {"word": "low", "steps": 3, "solver": solver, "schedule": "shift", "guidance_scale": 1.5}
    found = generate_toy(options)
    assert found.nfe == found.metadata()["nfe"] == 3 * a_step
    settings = found.settings
    assert (settings.steps, settings.solver, settings.schedule, settings.guidance_scale) == (
        3,
        solver,
        "shift_schedule",
        1.5,
    )
    assert found.generation_seconds > 0
    # metadata are written to the file: equal requests must give equal files
    assert found.metadata() == generate_toy(options).metadata()


def test_unset_options_have_the_values_of_the_recipe():
    settings = generate_toy({"word": "low"}).settings
    assert (settings.steps, settings.guidance_scale, settings.solver) == (3, 2.0, "core.midpoint")


def test_guidance_scale_one_is_the_conditional_velocity_and_ignores_the_negative_prompt():
    plain = generate_toy({"word": "low", "guidance_scale": 1}).data
    assert torch.equal(generate_toy({"word": "low", "guidance_scale": 1, "negative_word": "high"}).data, plain)
    nearly = generate_toy({"word": "low", "guidance_scale": 1.0001}).data
    assert nearly.numpy() == pytest.approx(plain.numpy(), abs=1e-2)


def test_a_negative_prompt_replaces_the_null_condition():
    with_silence, with_word = (
        generate_toy({"word": "low", "guidance_scale": 3, **more}).data for more in ({}, {"negative_word": "high"})
    )
    assert not torch.equal(with_silence, with_word)
    # guidance away from the condition itself has no direction
    same = generate_toy({"word": "low", "guidance_scale": 3, "negative_word": "low"}).data
    assert same.numpy() == pytest.approx(generate_toy({"word": "low", "guidance_scale": 1}).data.numpy(), abs=1e-4)


def test_guided_channels_of_the_recipe_limit_guidance_to_the_first_channels():
    sampling = {"steps": 1, "solver": "core.euler", "guidance_scale": 3.0}
    of = model(sampling={**sampling, "guidance_channels": 1})
    some = generate_toy({"word": "low"}, of=of).data
    every = generate_toy({"word": "low"}, of=model(sampling=sampling)).data
    none = generate_toy({"word": "low", "guidance_scale": 1}, of=of).data
    # after a single step the channels have not met yet
    assert some[:, 0].numpy() == pytest.approx(every[:, 0].numpy(), abs=1e-5)
    assert some[:, 1].numpy() == pytest.approx(none[:, 1].numpy(), abs=1e-5)
    assert float((some - none)[:, 0].abs().max()) > 1e-4


def test_a_request_can_set_the_size():
    assert generate_toy({"word": "low", "length": 9}).data.shape == (1, 2, 9)


@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
def test_a_fresh_model_of_any_prediction_gives_finite_data(prediction):
    options = recipe().model_copy(update={"objective": ComponentSpec(type="core.flow_matching", prediction=prediction)})
    made = build_model(options, registry()).eval()
    assert bool(generate_batch(made, registry(), [ToyRequest(label=1)]).data.isfinite().all())


@pytest.mark.parametrize("change", [{"steps": 4}, {"guidance_scale": 1.0}, {"solver": "euler"}, {"schedule": "shift"}])
def test_requests_with_different_settings_are_refused(change):
    with pytest.raises(ConfigError, match="requests: got several settings"):
        generate_toy({"word": "low"}, {"word": "low", **change})


def test_requests_of_which_only_some_have_a_condition_are_refused():
    with pytest.raises(ConfigError, match="word: got a value for some requests"):
        generate_toy({"word": "low"}, {})


def test_unsupported_options_are_refused():
    with pytest.raises(ConfigError, match="condition: got 'label', expected fields with a conditioner"):
        generate_toy({"label": 1})
    with pytest.raises(PluginError, match="did you mean 'midpoint'"):
        generate_toy({"word": "low", "solver": "midpiont"})
    with pytest.raises(PluginError):
        generate_toy({"word": "low", "schedule": "wavy"})


def test_generation_changes_no_weight():
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    generate_toy({"word": "low"})
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
