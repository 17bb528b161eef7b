"""Resolution of a request: solvers by name and options, budgets, guidance, initial data."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL, generate_toy, model
from core.toy import ToyRequest, registry

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.sampling.generate import generate_batch
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.velocity import GuidanceConfig, SamplingVelocity


def make_request(**more):
    return {"word": "low", "steps": 4, "guidance_scale": 2.0, **more}


def generate_from(request=None, **precomputed):
    return generate_batch(
        MODEL, registry(), [ToyRequest(**(request or make_request()))], inputs=PrecomputedInputs(**precomputed)
    )


@pytest.mark.parametrize(
    ("solver", "evaluations"), [("adams", 4), ("dpmpp", 4), ("heun3", 12), ("sde", 4), ("sde:method=heun", 7)]
)
def test_every_solver_is_found_by_name_and_reports_its_evaluations(solver, evaluations):
    found = generate_toy(make_request(solver=solver))
    assert found.nfe == evaluations
    assert bool(found.data.isfinite().all())
    assert found.metadata()["settings"]["solver"] == solver


def test_an_adaptive_solver_has_no_steps_and_the_same_result():
    pytest.importorskip("torchdiffeq", reason="an extra: lumina-core[adaptive]")
    fine = generate_toy(make_request(solver="rk4", steps=50)).data
    found = generate_toy({"word": "low", "guidance_scale": 2.0, "solver": "dopri5:rtol=1e-5,atol=1e-5"})
    assert found.data.numpy() == pytest.approx(fine.numpy(), abs=1e-2)
    assert "steps" not in found.metadata()["settings"] and "schedule" not in found.metadata()["settings"]
    with pytest.raises(ConfigError, match="got a limit of 3 evaluations"):
        generate_toy({"word": "low", "solver": "dopri5", "nfe": 3})


@pytest.mark.parametrize(("solver", "steps"), [("euler", 9), ("midpoint", 4), ("rk4", 2), ("adams", 9), ("sde", 9)])
def test_an_evaluation_budget_is_never_exceeded(solver, steps):
    found = generate_toy({"word": "low", "solver": solver, "nfe": 9})
    assert found.nfe <= 9
    assert found.settings.steps == steps


def test_invalid_evaluation_budgets_are_refused():
    with pytest.raises(ConfigError, match="nfe: got 3, expected at least 4 for one step of rk4"):
        generate_toy({"word": "low", "solver": "rk4", "nfe": 3})
    with pytest.raises(ConfigError, match="nfe: got it together with steps"):
        generate_toy(make_request(nfe=8))
    with pytest.raises(ConfigError, match="solver: got options order for euler, expected none"):
        generate_toy(make_request(solver="euler:order=2"))


def test_stochastic_noise_depends_on_the_item_and_its_seed_only():
    stochastic = {"solver": "sde", "guidance_scale": 1.0}
    requests = [make_request(seed=3, **stochastic), make_request(seed=8, **stochastic)]
    together = generate_toy(*requests).data
    alone = torch.cat([generate_toy(request).data for request in requests])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)
    assert not torch.equal(together[0], together[1])
    assert torch.equal(generate_toy(requests[0]).data, generate_toy(requests[0]).data)


def test_the_path_of_a_stochastic_solver_is_the_models(monkeypatch):
    from lumina_core.flow.path import GVPPath
    from lumina_core.flow.solvers import SDESolver

    of = model(objective={"type": "core.flow_matching", "path": {"type": "core.gvp"}})
    paths = []
    monkeypatch.setattr(SDESolver, "init", lambda self, draw: paths.append(self.path) or draw)
    generate_toy(make_request(solver="sde"), of=of)
    assert isinstance(paths[0], GVPPath)


class Halves:
    """Record the time and the number of items of each evaluation."""

    def __init__(self, monkeypatch):
        self.make_request, plain = [], type(MODEL).velocity

        def watched(of, tokens, time, condition, **rest):
            self.make_request.append((round(float(time[0]), 4), len(time)))
            return plain(of, tokens, time, condition, **rest)

        monkeypatch.setattr(type(MODEL), "velocity", watched)


def test_outside_the_guidance_interval_only_the_condition_is_evaluated(monkeypatch):
    halves = Halves(monkeypatch)
    found = generate_toy(make_request(solver="euler", guidance_interval="0.25,0.5"))
    assert halves.make_request == [(0.0, 1), (0.25, 2), (0.5, 2), (0.75, 1)]
    assert found.nfe == 4


def test_a_full_interval_is_plain_guidance_and_one_outside_the_schedule_is_none():
    plain = generate_toy(make_request(solver="euler")).data
    assert torch.equal(generate_toy(make_request(solver="euler", guidance_interval=(0.0, 1.0))).data, plain)
    never = generate_toy(make_request(solver="euler", guidance_interval=(0.8, 0.9))).data
    assert torch.equal(never, generate_toy(make_request(solver="euler", guidance_scale=1.0)).data)


def test_batched_and_sequential_guidance_give_the_same_result(monkeypatch):
    together, apart = (generate_toy(make_request(cfg_batching=how)).data for how in ("batched", "sequential"))
    assert together.numpy() == pytest.approx(apart.numpy(), abs=1e-4)
    halves = Halves(monkeypatch)
    generate_toy(make_request(cfg_batching="sequential", solver="euler", steps=1))
    assert [items for _, items in halves.make_request] == [1, 1]


def test_guidance_is_sequential_if_the_conditions_cannot_be_batched(monkeypatch):
    joint, plain = generate_toy(make_request()).data, type(MODEL).velocity

    def small(of, tokens, time, condition, **rest):
        if len(time) > 1:
            raise torch.OutOfMemoryError("not enough")
        return plain(of, tokens, time, condition, **rest)

    monkeypatch.setattr(type(MODEL), "velocity", small)
    assert generate_toy(make_request()).data.numpy() == pytest.approx(joint.numpy(), abs=1e-4)
    with pytest.raises(torch.OutOfMemoryError):
        generate_toy(make_request(cfg_batching="batched"))


def test_guidance_rescale_interpolates_and_the_recipe_may_set_it():
    plain, some, full = (
        generate_toy(make_request(guidance_scale=6.0, guidance_rescale=share)).data for share in (None, 0.5, 1.0)
    )
    assert not torch.equal(plain, some) and not torch.equal(some, full)
    of = model(sampling={"steps": 4, "guidance_rescale": 0.5})
    assert torch.equal(generate_toy(make_request(guidance_scale=6.0), of=of).data, some)


def test_two_velocities_need_no_joint_one():
    guided = SamplingVelocity(lambda: Still(1.0), Still, None, GuidanceConfig(scale=3.0))
    assert guided(torch.zeros(1, 2), 0.0).tolist() == [[3.0, 3.0]]


class Still:
    """A velocity that is one number everywhere."""

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, x, t):
        return torch.full_like(x, self.value)


def test_the_result_is_nearer_to_the_initial_data_for_a_lower_strength():
    noise = generate_toy(make_request()).data
    data = torch.full((1, 2, 6), 0.3)
    unchanged = generate_from(data=data, strength=0.0)
    assert torch.equal(unchanged.data, data) and unchanged.nfe == 0
    assert torch.equal(generate_from(data=data, strength=1.0).data, noise)
    near, far = (generate_from(data=data, strength=s) for s in (0.3, 0.7))
    assert near.nfe < far.nfe < 8
    assert float((near.data - data).abs().mean()) < float((far.data - data).abs().mean())
    with pytest.raises(ConfigError, match=r"strength: got 1\.2, expected 0\.\.1"):
        generate_from(data=data, strength=1.2)


@pytest.mark.parametrize("interval", ["0.5,0.2", "0.2", "a,b", (0.5, 1.5)])
def test_an_invalid_guidance_interval_is_refused(interval):
    with pytest.raises(
        ConfigError, match=r"guidance_interval: got .*, expected (two numbers FROM,TO|0 <= FROM < TO <= 1)"
    ):
        ToyRequest.read({"word": "low", "guidance_interval": interval}, "request")


def test_a_guide_model_replaces_the_null_condition():
    weaker = model(backbone={**MODEL.recipe.backbone.model_dump(), "num_layers": 1})
    request = make_request(solver="euler", steps=1, guidance_scale=3.0)
    strong, weak = (generate_toy({**request, "guidance_scale": 1.0}, of=of).data for of in (MODEL, weaker))
    led = generate_batch(MODEL, registry(), [ToyRequest(**request)], inputs=PrecomputedInputs(guide_model=weaker)).data
    # after a single step: weak + 3 (strong - weak)
    assert led.numpy() == pytest.approx((weak + 3 * (strong - weak)).numpy(), abs=1e-3)


def test_a_guide_model_with_other_tokens_is_refused():
    other = model(autoencoder={"type": "toy.identity"}, tokenizer={"type": "toy.steps"})
    other.tokenizer = type(other.tokenizer)(type(other.tokenizer).Config(channels=3))
    with pytest.raises(ConfigError, match="guide_model: got tokens of shape"):
        generate_batch(MODEL, registry(), [ToyRequest(**make_request())], inputs=PrecomputedInputs(guide_model=other))


def test_a_guide_model_is_named_like_any_model(toy_folder):
    from making import registry_of

    from lumina_core.model_dir import load_model
    from lumina_core.sampling.pipeline import Pipeline

    pipe = Pipeline(load_model(toy_folder, registry_of("toy")), registry_of("toy"))
    with pytest.raises(CheckpointError, match="model: got 'nowhere', expected a model folder"):
        pipe(word="red cat", guidance_scale=2.0, guide_model="nowhere")


def test_options_that_a_request_gave_are_recorded():
    found = generate_toy(
        make_request(
            schedule="shift:shift=2",
            solver="sde:diffusion_norm=0.5",
            rope_scaling="watershed:train_size=6,watershed=0.5",
        )
    )
    settings = found.metadata()["settings"]
    assert (settings["schedule"], settings["solver"]) == ("shift_schedule:shift=2", "sde:diffusion_norm=0.5")
    assert settings["rope_scaling"] == "watershed:train_size=6,watershed=0.5"
    again = generate_toy(make_request(**{key: settings[key] for key in ("schedule", "solver", "rope_scaling")}))
    assert torch.equal(again.data, found.data)
