"""Names that users import from `lumina_core`, the cost of the import, and the snippets of docs/guides/python.md.

A test named `test_snippet_...` runs the code of the page, with at most two imports besides those of its checks.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import lumina_core
from lumina_core.errors import PluginError
from lumina_core.plugins import loader


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_loads_neither_torch_nor_pydantic():
    loaded = run_python("import sys, lumina_core; print(*sys.modules)").split()
    assert "lumina_core" in loaded
    assert not {"torch", "pydantic", "numpy", "yaml"} & set(loaded)


def test_import_takes_less_than_a_tenth_of_a_second():
    # of the processor, not of the clock, which counts other processes of a busy machine too
    code = "import time; a = time.process_time(); import lumina_core; print(time.process_time() - a)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.1


@pytest.mark.parametrize("name", lumina_core.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(lumina_core, name) is not None


def test_a_public_name_is_the_object_of_its_module():
    from lumina_core.flow.solvers import integrate
    from lumina_core.types import Tokens

    assert lumina_core.integrate is integrate
    assert lumina_core.Tokens is Tokens


def test_dir_lists_names_that_were_not_imported_yet():
    assert "Pipeline True" in run_python("import lumina_core as l; print('Pipeline', 'Pipeline' in dir(l))")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Pipelin"):
        lumina_core.Pipelin  # noqa: B018


@pytest.fixture
def process_components(monkeypatch):
    monkeypatch.setattr(loader, "_process_components", {})
    loader.load_plugins.cache_clear()
    yield
    loader.load_plugins.cache_clear()


def test_a_registered_function_is_found_by_its_name(process_components):
    @lumina_core.register("solver", "mine.step", "a step of zero length")
    def stay(velocity, x, t, u):
        return x

    assert loader.load_plugins().find("solver", "mine.step") is stay
    assert loader.load_plugins().find("solver", "step") is stay
    loader.load_plugins.cache_clear()
    assert loader.load_plugins().find("solver", "mine.step") is stay


def test_the_same_function_can_be_registered_again(process_components):
    def define(value):
        @lumina_core.register("solver", "mine.step")
        def step(velocity, x, t, u):
            return value

        return step

    define(1)
    second = define(2)
    assert loader.load_plugins().find("solver", "mine.step") is second


def test_a_name_that_another_component_has_is_refused(process_components):
    with pytest.raises(PluginError, match=r"'core.euler'.*lumina_core.flow.solvers:euler"):
        lumina_core.register("solver", "core.euler")(lambda velocity, x, t, u: x)


@pytest.mark.parametrize(("component_type", "name"), [("solvr", "mine.step"), ("solver", "step"), ("solver", "a.b.c")])
def test_an_unknown_type_and_a_name_of_another_form_are_refused(process_components, component_type, name):
    with pytest.raises(PluginError, match=r"expected two words|expected a type of component; did you mean 'solver'"):
        lumina_core.register(component_type, name)(lambda velocity, x, t, u: x)


def test_a_plugin_that_registers_while_it_is_loaded_is_left_out_with_the_reason(install):
    text = "import lumina_core\n@lumina_core.register('solver', 'late.step')\ndef step(v, x, t, u): return x\n"
    install("lumina-late", "late = late_plugin", {"late_plugin": text})
    assert "lumina_register_components" in loader.load_plugins().failures["late"].reason


@pytest.fixture(scope="module")
def pipe():
    """The pipeline of snippet 1, shared by the snippets that use it."""
    pytest.importorskip("lumina_image")
    from lumina_core import Pipeline

    return Pipeline.from_pretrained("image.emoji")


@pytest.mark.needs("lumina_image")
def test_snippet_1_loads_an_installed_model():
    from lumina_core import Pipeline

    pipe = Pipeline.from_pretrained("image.emoji")
    assert pipe.model.recipe.task.type == "image.text_to_image"

    exact = Pipeline.from_pretrained("image.emoji", device="cpu", dtype="float32")
    parameter = next(exact.model.parameters())
    assert str(parameter.device) == "cpu" and str(parameter.dtype) == "torch.float32"


def test_snippet_2_generates_a_pil_image(pipe, tmp_path):
    image = pipe("a red heart", steps=10, guidance_scale=3.0, seed=1).images[0]
    image.save(tmp_path / "heart.png")
    assert image.size == (64, 64) and image.mode == "RGB"


def test_snippet_3_generates_a_batch_with_a_seed_for_each_prompt(pipe):
    output = pipe(["a red heart", "a green frog"], seed=[1, 2])
    assert len(output.images) == 2
    assert [result.metadata["seed"] for result in output] == [1, 2]


def test_snippet_4_stops_sampling_from_a_callback(pipe):
    times = []

    def stop_early(state):
        times.append(state.time)
        if state.time > 0.7:
            state.stop()

    output = pipe("a red heart", callback=stop_early, seed=1)
    assert output.images[0].size == (64, 64)
    assert times[-1] > 0.7 and all(time <= 0.7 for time in times[:-1])
    assert output[0].metadata["stopped_at"] == times[-1]


def test_snippet_5_integrates_with_a_function_as_solver(pipe):
    def my_euler(velocity, x, t, u):
        return x + (u - t) * velocity(x, t)

    image = pipe("a red heart", solver=my_euler, seed=1).images[0]
    assert image.tobytes() == pipe("a red heart", solver="euler", seed=1).images[0].tobytes()


@pytest.mark.needs("lumina_image")
def test_snippet_6_trains_a_recipe(tmp_path, monkeypatch):
    from lumina_core import Recipe, Trainer

    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("image.tiny", ["training.steps=2", "training.checkpoint_interval=2"])
    trainer = Trainer(recipe, out="runs/from_python")
    trainer.train()
    assert (tmp_path / "runs/from_python/model/config.json").is_file()


def test_snippet_7_evaluates_a_pipeline(pipe):
    from lumina_core import evaluate

    result = evaluate(pipe, dataset="image.emoji", metrics=["image.retrieval"], num_samples=4)
    assert result["image.retrieval"]["top1"].count == 4
    assert 0 <= result["image.retrieval"]["top1"].value <= 1


@pytest.mark.needs("lumina_image")
def test_snippet_8_registers_a_solver_in_the_running_process(process_components):
    from lumina_core import Pipeline, register

    pipe = Pipeline.from_pretrained("image.emoji")

    @register("solver", "mine.step")
    def step(velocity, x, t, u):
        return x + (u - t) * velocity(x, t)

    image = pipe("a red heart", solver="mine.step", seed=1).images[0]
    assert image.tobytes() == pipe("a red heart", solver="euler", seed=1).images[0].tobytes()


def test_snippet_9_evaluates_a_backbone_on_latents():
    import torch

    from lumina_core import NextDiT

    net = NextDiT(in_channels=4, patch_size=2, hidden_size=64, num_layers=2, num_heads=4, context_dim=32)
    x, t = torch.randn(2, 4, 16, 16), torch.rand(2)
    velocity = net(x, t, context=torch.randn(2, 7, 32))
    features = net.forward_intermediates(x, t, context=torch.randn(2, 7, 32), indices=[0, 1])
    assert velocity.shape == (2, 4, 16, 16) and len(features) == 2


def test_snippet_10_integrates_any_velocity():
    import torch

    from lumina_core import integrate, schedules
    from lumina_core.flow.solvers import heun

    values = integrate(lambda x, t: -x, torch.ones(3, 2), schedules.uniform_times(30), solver=heun).values
    assert torch.allclose(values, torch.full((3, 2), -1.0).exp(), atol=1e-3)


def test_intermediate_features_of_a_backbone():
    import torch
    from backbones import make_condition, make_tokens, next_dit

    backbone, tokens, condition = next_dit(num_layers=8, hidden_size=32), make_tokens(2, 3), make_condition(1)
    features = backbone.forward_intermediates(tokens, torch.tensor([0.5]), condition, indices=[4, 7], norm=True)
    assert [tuple(one.shape) for one in features] == [(1, 6, 32)] * 2


def test_next_dit_is_a_plain_module_on_latents():
    import torch

    from lumina_core import NextDiT

    net = NextDiT(in_channels=4, patch_size=2, hidden_size=256, num_layers=2, num_heads=4, context_dim=64)
    x, t, text = torch.randn(2, 4, 8, 8), torch.rand(2), torch.randn(2, 7, 64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    velocity = net(x, t, context=text, context_mask=mask)
    assert velocity.shape == x.shape
    velocity.square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.head.parameters())


def test_a_model_is_evaluated_with_one_call():
    import torch
    from core.toy import recipe, registry

    from lumina_core import Pipeline, evaluate
    from lumina_core.model import build_model
    from lumina_core.protocols import FeatureExtractor, Metric

    class Sums(FeatureExtractor):
        name = key = "sums"

        def __call__(self, items):
            return torch.stack([item.sum(1) for item in items])

    class Distance(Metric):
        name, feature_extractor = "distance", Sums()

        def compute(self, inputs):
            return {"mean": (inputs.generated - inputs.real[inputs.target_index]).norm(dim=1)}

    pipe = Pipeline(build_model(recipe("word"), registry()).eval(), registry())
    result = evaluate(pipe, dataset="signals", metrics=[Distance()], num_samples=3, steps=2)
    score = result["distance"]["mean"]
    assert score.count == 3 and score.interval.low <= score.value <= score.interval.high


@pytest.mark.needs("lumina_image")
def test_a_recipe_is_trained_on_an_own_dataset_with_an_own_callback(tmp_path):
    import torch

    from lumina_core import Recipe, TrainCallback, Trainer, load_model

    class Squares(torch.utils.data.Dataset):
        """Coloured squares with a caption."""

        def __len__(self):
            return 32

        def __getitem__(self, index):
            return {"image": torch.full((3, 32, 32), index / 16 - 1), "caption": f"square number {index}"}

    class Losses(TrainCallback):
        def __init__(self):
            self.losses = []

        def on_step_end(self, trainer, metrics):
            self.losses.append(metrics.loss)

    settings = ("training.steps=3", "training.global_batch_size=8", "training.sample_interval=0", "dataset=null")
    recipe, losses = Recipe.load("image.tiny", settings), Losses()
    model_dir = Trainer(recipe, tmp_path / "run", dataset=Squares(), callbacks=[losses], device="cpu").train()
    assert len(losses.losses) == 3
    assert load_model(model_dir).recipe.training.steps == 3

    with Trainer(recipe, tmp_path / "loop", dataset=Squares(), device="cpu") as trainer:
        own = [trainer.train_step(batch).loss for batch in trainer.batches()]
    assert own == losses.losses
