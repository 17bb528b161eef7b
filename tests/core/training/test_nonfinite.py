"""What is not a number stops a step, by the name of the layer that made it, and leaves the weights as they were."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.errors import LuminaError
from lumina_core.model import build_dataset, build_model
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep, _make_dataloader, freeze

ALONE = ProcessInfo(0, 1, torch.device("cpu"))


def ready(**training):
    asked = recipe("word", **training)
    torch.manual_seed(0)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    freeze(model, ())
    return model, TrainStep(model, asked.training, ALONE, build_optimizers(model, asked.training)), dataset


def first(model, dataset):
    return next(iter(_make_dataloader(model, dataset, 0, ALONE)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", ["backbone.blocks.1.feed_forward.up", "backbone.embed", "conditioners.word.mix"])
def test_the_first_layer_whose_output_is_bad_is_named_with_the_step(layer, bad):
    model, stepper, dataset = ready()
    with torch.no_grad():
        model.get_submodule(layer).weight[0, 0] = bad
    with pytest.raises(LuminaError, match=rf"step 8: NaN or Inf, first made by {layer} \(Linear\)"):
        stepper.step(7, first(model, dataset))


def test_weights_stay_as_they_were_when_a_step_goes_wrong():
    model, stepper, dataset = ready()
    with torch.no_grad():
        model.get_submodule("backbone.blocks.0.feed_forward.out").weight[0, 0] = float("nan")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(LuminaError):
        stepper.step(0, first(model, dataset))
    assert all(torch.equal(t.nan_to_num(7), before[n].nan_to_num(7)) for n, t in model.state_dict().items())


def test_a_gradient_that_is_no_number_is_told_from_a_layer():
    model, stepper, dataset = ready()
    model.backbone.embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(LuminaError, match="the loss or its gradient"):
        stepper.step(0, first(model, dataset))


def test_watching_ends_with_the_error():
    model, stepper, dataset = ready()
    with torch.no_grad():
        model.backbone.embed.weight[0, 0] = float("nan")
    with pytest.raises(LuminaError):
        stepper.step(0, first(model, dataset))
    assert not any(module._forward_hooks for module in model.modules())
