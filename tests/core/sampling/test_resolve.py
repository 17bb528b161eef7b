"""How a request goes: solvers by name and options, budgets, guidance in its forms, data to begin from."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL, ask, model
from core.toy import ToyRequest, registry

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.sampling.generate import generate_batch
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.velocity import GuidanceConfig, SamplingVelocity


def asked(**more):
    return {"word": "low", "steps": 4, "guidance_scale": 2.0, **more}


def given(request=None, **handed):
    return generate_batch(MODEL, registry(), [ToyRequest(**(request or asked()))], inputs=PrecomputedInputs(**handed))


@pytest.mark.parametrize(
    ("solver", "evaluations"), [("adams", 4), ("dpmpp", 4), ("heun3", 12), ("sde", 4), ("sde:method=heun", 7)]
)
def test_every_solver_answers_by_name_and_says_what_it_took(solver, evaluations):
    found = ask(asked(solver=solver))
    assert found.nfe == evaluations
    assert bool(found.data.isfinite().all())
    assert found.metadata()["settings"]["solver"] == solver


def test_an_adaptive_solver_has_no_steps_and_comes_to_the_same_end():
    pytest.importorskip("torchdiffeq", reason="an extra: lumina-core[adaptive]")
    fine = ask(asked(solver="rk4", steps=50)).data
    found = ask({"word": "low", "guidance_scale": 2.0, "solver": "dopri5:rtol=1e-5,atol=1e-5"})
    assert found.data.numpy() == pytest.approx(fine.numpy(), abs=1e-2)
    assert "steps" not in found.metadata()["settings"] and "schedule" not in found.metadata()["settings"]
    with pytest.raises(ConfigError, match="got a limit of 3 evaluations"):
        ask({"word": "low", "solver": "dopri5", "nfe": 3})


@pytest.mark.parametrize(("solver", "steps"), [("euler", 9), ("midpoint", 4), ("rk4", 2), ("adams", 9), ("sde", 9)])
def test_a_budget_of_evaluations_is_never_passed(solver, steps):
    found = ask({"word": "low", "solver": solver, "nfe": 9})
    assert found.nfe <= 9
    assert found.settings.steps == steps


def test_budgets_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="nfe: got 3, expected at least 4 for one step of rk4"):
        ask({"word": "low", "solver": "rk4", "nfe": 3})
    with pytest.raises(ConfigError, match="nfe: got it together with steps"):
        ask(asked(nfe=8))
    with pytest.raises(ConfigError, match="solver: got options order for euler, expected none"):
        ask(asked(solver="euler:order=2"))


def test_noise_on_the_way_belongs_to_the_item_and_its_seed():
    way = {"solver": "sde", "guidance_scale": 1.0}
    requests = [asked(seed=3, **way), asked(seed=8, **way)]
    together = ask(*requests).data
    alone = torch.cat([ask(request).data for request in requests])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)
    assert not torch.equal(together[0], together[1])
    assert torch.equal(ask(requests[0]).data, ask(requests[0]).data)


def test_the_path_of_a_stochastic_solver_is_the_models(monkeypatch):
    from lumina_core.flow.path import GVPPath
    from lumina_core.flow.solvers import SDESolver

    of = model(objective={"type": "core.flow_matching", "path": {"type": "core.gvp"}})
    seen = []
    monkeypatch.setattr(SDESolver, "init", lambda self, draw: seen.append(self.path) or draw)
    ask(asked(solver="sde"), of=of)
    assert isinstance(seen[0], GVPPath)


class Halves:
    """Counts how many items the network is asked for, at which times."""

    def __init__(self, monkeypatch):
        self.asked, plain = [], type(MODEL).velocity

        def watched(of, tokens, time, condition, **rest):
            self.asked.append((round(float(time[0]), 4), len(time)))
            return plain(of, tokens, time, condition, **rest)

        monkeypatch.setattr(type(MODEL), "velocity", watched)


def test_outside_the_interval_only_what_was_said_is_evaluated(monkeypatch):
    halves = Halves(monkeypatch)
    found = ask(asked(solver="euler", guidance_interval="0.25,0.5"))
    assert halves.asked == [(0.0, 1), (0.25, 2), (0.5, 2), (0.75, 1)]
    assert found.nfe == 4


def test_an_interval_over_everything_is_guidance_and_one_beside_the_grid_is_none():
    plain = ask(asked(solver="euler")).data
    assert torch.equal(ask(asked(solver="euler", guidance_interval=(0.0, 1.0))).data, plain)
    never = ask(asked(solver="euler", guidance_interval=(0.8, 0.9))).data
    assert torch.equal(never, ask(asked(solver="euler", guidance_scale=1.0)).data)


def test_halves_together_and_apart_are_the_same(monkeypatch):
    together, apart = (ask(asked(cfg_batching=how)).data for how in ("batched", "sequential"))
    assert together.numpy() == pytest.approx(apart.numpy(), abs=1e-4)
    halves = Halves(monkeypatch)
    ask(asked(cfg_batching="sequential", solver="euler", steps=1))
    assert [items for _, items in halves.asked] == [1, 1]


def test_halves_that_do_not_fit_together_are_asked_apart(monkeypatch):
    wanted, plain = ask(asked()).data, type(MODEL).velocity

    def small(of, tokens, time, condition, **rest):
        if len(time) > 1:
            raise torch.OutOfMemoryError("not enough")
        return plain(of, tokens, time, condition, **rest)

    monkeypatch.setattr(type(MODEL), "velocity", small)
    assert ask(asked()).data.numpy() == pytest.approx(wanted.numpy(), abs=1e-4)
    with pytest.raises(torch.OutOfMemoryError):
        ask(asked(cfg_batching="batched"))


def test_rescaled_guidance_lies_between_and_the_recipe_may_ask_for_it():
    plain, some, full = (ask(asked(guidance_scale=6.0, guidance_rescale=share)).data for share in (None, 0.5, 1.0))
    assert not torch.equal(plain, some) and not torch.equal(some, full)
    of = model(sampling={"steps": 4, "guidance_rescale": 0.5})
    assert torch.equal(ask(asked(guidance_scale=6.0), of=of).data, some)


def test_two_velocities_need_no_joint_one():
    guided = SamplingVelocity(lambda: Still(1.0), Still, None, GuidanceConfig(scale=3.0))
    assert guided(torch.zeros(1, 2), 0.0).tolist() == [[3.0, 3.0]]


class Still:
    """A velocity that is one number everywhere."""

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, x, t):
        return torch.full_like(x, self.value)


def test_data_to_begin_from_is_kept_as_much_as_the_strength_leaves():
    noise = ask(asked()).data
    data = torch.full((1, 2, 6), 0.3)
    unchanged = given(data=data, strength=0.0)
    assert torch.equal(unchanged.data, data) and unchanged.nfe == 0
    assert torch.equal(given(data=data, strength=1.0).data, noise)
    near, far = (given(data=data, strength=s) for s in (0.3, 0.7))
    assert near.nfe < far.nfe < 8
    assert float((near.data - data).abs().mean()) < float((far.data - data).abs().mean())
    with pytest.raises(ConfigError, match=r"strength: got 1\.2, expected 0\.\.1"):
        given(data=data, strength=1.2)


@pytest.mark.parametrize("interval", ["0.5,0.2", "0.2", "a,b", (0.5, 1.5)])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ConfigError, match=r"an interval (is FROM,TO|goes from a time to a later one)"):
        ToyRequest.read({"word": "low", "guidance_interval": interval}, "request")


def test_a_weaker_model_takes_the_place_of_silence():
    weaker = model(backbone={**MODEL.recipe.backbone.model_dump(), "num_layers": 1})
    request = asked(solver="euler", steps=1, guidance_scale=3.0)
    strong, weak = (ask({**request, "guidance_scale": 1.0}, of=of).data for of in (MODEL, weaker))
    led = generate_batch(MODEL, registry(), [ToyRequest(**request)], inputs=PrecomputedInputs(guide_model=weaker)).data
    # after a single step: weak + 3 (strong - weak)
    assert led.numpy() == pytest.approx((weak + 3 * (strong - weak)).numpy(), abs=1e-3)


def test_a_weaker_model_of_other_tokens_is_refused():
    other = model(autoencoder={"type": "toy.identity"}, tokenizer={"type": "toy.steps"})
    other.tokenizer = type(other.tokenizer)(type(other.tokenizer).Config(channels=3))
    with pytest.raises(ConfigError, match="guide_model: got tokens of shape"):
        generate_batch(MODEL, registry(), [ToyRequest(**asked())], inputs=PrecomputedInputs(guide_model=other))


def test_a_weaker_model_is_named_like_any_model(toy_folder):
    from making import registry_of

    from lumina_core.model_dir import load_model
    from lumina_core.sampling.pipeline import Pipeline

    session = Pipeline(load_model(toy_folder, registry_of("toy")), registry_of("toy"))
    with pytest.raises(CheckpointError, match="model: got 'nowhere', expected a model folder"):
        session(word="red cat", guidance_scale=2.0, guide_model="nowhere")


def test_options_that_a_request_gave_are_recorded():
    found = ask(
        asked(
            schedule="shift:shift=2",
            solver="sde:diffusion_norm=0.5",
            rope_scaling="watershed:train_size=6,watershed=0.5",
        )
    )
    settings = found.metadata()["settings"]
    assert (settings["schedule"], settings["solver"]) == ("shift_schedule:shift=2", "sde:diffusion_norm=0.5")
    assert settings["rope_scaling"] == "watershed:train_size=6,watershed=0.5"
    again = ask(asked(**{key: settings[key] for key in ("schedule", "solver", "rope_scaling")}))
    assert torch.equal(again.data, found.data)
