"""NaN or Inf stops a step, names the layer that it comes from, and leaves the weights as they were."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe
from core.training.test_trainer import make_trainer

from lumina_core.errors import LuminaError
from lumina_core.training import trainer as trainer_module


@pytest.fixture
def trainer(tmp_path):
    with make_trainer(tmp_path, recipe("word")) as trainer:
        yield trainer


def step(trainer):
    return trainer.train_step(next(trainer.batches()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", ["backbone.blocks.1.feed_forward.up", "backbone.embed", "conditioners.word.mix"])
def test_the_first_layer_with_a_bad_output_is_named_with_the_step(trainer, layer, bad):
    with torch.no_grad():
        trainer.model.get_submodule(layer).weight[0, 0] = bad
    trainer.step = 7
    with pytest.raises(LuminaError, match=rf"step 8: got NaN or Inf, first from {layer} \(Linear\)"):
        step(trainer)


def test_a_layer_that_is_bad_only_with_gradients_is_named(trainer):
    """Other CPU kernels run without gradients: the search must run the ones of the step."""
    layer = trainer.model.get_submodule("backbone.blocks.0.feed_forward.out")
    layer.forward = lambda x, forward=layer.forward: forward(x) * (float("nan") if torch.is_grad_enabled() else 1.0)
    with pytest.raises(LuminaError, match=r"first from backbone\.blocks\.0\.feed_forward\.out"):
        step(trainer)


def test_weights_stay_as_they_were_when_a_step_fails(trainer):
    with torch.no_grad():
        trainer.model.get_submodule("backbone.blocks.0.feed_forward.out").weight[0, 0] = float("nan")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(LuminaError):
        step(trainer)
    assert all(torch.equal(t.nan_to_num(7), before[n].nan_to_num(7)) for n, t in trainer.model.state_dict().items())
    assert trainer.step == 0


def test_a_bad_gradient_names_no_layer(trainer):
    trainer.model.backbone.embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(LuminaError, match="the loss or its gradient"):
        step(trainer)


def test_no_hook_is_left_after_the_error(trainer):
    with torch.no_grad():
        trainer.model.backbone.embed.weight[0, 0] = float("nan")
    with pytest.raises(LuminaError):
        step(trainer)
    assert not any(module._forward_hooks for module in trainer.model.modules())


@pytest.fixture
def broken_compiler(monkeypatch):
    """A compiler whose forward pass gives NaN; counts its calls."""
    calls = []

    def compile_predict(predict, device, dynamic=False):
        def broken(*args):
            calls.append(args)
            return predict(*args) * float("nan")

        return broken

    monkeypatch.setattr(trainer_module, "compile_predict", compile_predict)
    return calls


def test_a_compiled_step_that_is_not_finite_where_eager_is_goes_on_without_the_compiler(tmp_path, broken_compiler):
    eager = recipe("word", steps=3)
    with make_trainer(tmp_path / "eager", eager) as trainer:
        expected = [trainer.train_step(batch).loss for batch in trainer.batches()]
    compiled = recipe("word", steps=3, compile=True)
    with make_trainer(tmp_path / "compiled", compiled) as trainer:
        with pytest.warns(
            UserWarning, match=r"step 1: torch\.compile gave NaN or Inf where the same step .* is finite"
        ):
            losses = [step(trainer).loss]
        losses += [trainer.train_step(batch).loss for batch in trainer.batches()]
    assert losses == expected and len(broken_compiler) == 1


def test_a_step_that_is_not_finite_either_way_is_an_error(tmp_path, broken_compiler):
    with make_trainer(tmp_path, recipe("word", compile=True)) as trainer:
        with torch.no_grad():
            trainer.model.backbone.embed.weight[0, 0] = float("nan")
        with pytest.raises(LuminaError, match=r"first from backbone\.embed"):
            step(trainer)
