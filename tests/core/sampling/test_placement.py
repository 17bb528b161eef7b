"""Data types, devices, and components that are on the device only while they run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lumina_core.errors import LuminaError
from lumina_core.pretrained import FrozenModule
from lumina_core.sampling import pipeline
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.types import VariationInput

pytestmark = pytest.mark.usefixtures("toy")


def numbers(pipe, **settings):
    return pipe(word="red cat", seed=1, **settings)[0].data


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("bfloat16", 0.2), ("float16", 0.02)])
def test_weights_have_the_requested_dtype_and_results_are_close(toy_folder, dtype, error):
    pipe = Pipeline.from_pretrained(toy_folder, dtype=dtype)
    assert {p.dtype for p in pipe.model.parameters()} == {getattr(torch, dtype)}
    answer, usual = numbers(pipe), numbers(Pipeline.from_pretrained(toy_folder))
    assert answer.dtype == torch.float32 and (answer - usual).abs().max() <= error * usual.abs().max()


def test_float16_overflow_is_reported_and_repeated_in_a_wider_dtype(toy_folder):
    pipe = Pipeline.from_pretrained(toy_folder, dtype="float16")
    overflow(pipe.model)
    before = {name: weight.clone() for name, weight in pipe.model.state_dict().items()}
    with pytest.warns(UserWarning, match="dtype: float16 overflows"):
        answer = numbers(pipe)
    assert torch.isfinite(answer).all()
    # the pipeline itself is unchanged, for the other threads that use it
    assert pipe.model.dtype == torch.float16
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.model.state_dict().items())


def test_only_the_items_that_overflow_are_generated_again(toy_folder, monkeypatch):
    pipe = Pipeline.from_pretrained(toy_folder, dtype="float16")
    plain, batches = pipeline.generate_items, []

    def overflowing_second_item(model, plan, items, *rest, **more):
        batches.append((model.dtype, len(items)))
        result = plain(model, plan, items, *rest, **more)
        if model.dtype == torch.float16:
            data = result.data.clone()
            data[1] = float("inf")
            result = replace(result, data=data)
        return result

    monkeypatch.setattr(pipeline, "generate_items", overflowing_second_item)
    with pytest.warns(UserWarning, match="dtype: float16 overflows"):
        results = pipe(["red cat", "blue sun", "cat"])
    assert batches[0] == (torch.float16, 3) and batches[1][1] == 1 and len(batches) == 2
    assert all(bool(result.data.isfinite().all()) for result in results)


def test_an_inversion_that_overflows_in_float16_is_repeated_as_well(toy_folder, monkeypatch):
    pipe = Pipeline.from_pretrained(toy_folder, dtype="float16")
    overflow(pipe.model)
    variation = VariationInput(torch.ones(1, 4), {})  # of which every second row is infinite
    monkeypatch.setattr(type(pipe.model.task), "variation", lambda self, request: variation)
    with pytest.warns(UserWarning, match="dtype: float16 overflows"):
        result = pipe("red cat", steps=2)[0]
    assert torch.isfinite(result.data).all() and result.metadata["inversion_nfe"] == 4


def overflow(model):
    """Make a model overflow in float16."""
    with torch.no_grad():
        model.backbone.embed.weight.fill_(6e4)[::2, 0] *= -1


def test_a_nonfinite_result_is_never_returned(toy_folder):
    pipe = Pipeline.from_pretrained(toy_folder)
    with torch.no_grad():
        pipe.model.head.linear.bias.fill_(float("nan"))
    with pytest.raises(LuminaError, match="model: a result is not finite"):
        numbers(pipe)


def test_offload_gives_the_same_result_with_one_component_on_the_device_at_a_time(toy_folder, monkeypatch):
    usual = numbers(Pipeline.from_pretrained(toy_folder))
    pipe = Pipeline.from_pretrained(toy_folder, offload=True, text_device="cpu")
    moves, names = [], {id(module): name for name, module in pipe.model.named_children()}
    moved = nn.Module.to

    def watched(module, *place, **more):
        if id(module) in names:
            moves.append(names[id(module)])
        return moved(module, *place, **more)

    monkeypatch.setattr(nn.Module, "to", watched)
    assert torch.equal(numbers(pipe), usual)
    assert moves == ["conditioners"] * 2 + ["backbone", "head"] * 2


def test_a_frozen_network_follows_the_model_unless_pinned_and_is_in_no_state_dict():
    loads = []

    def load(device):
        loads.append(device)
        return nn.Linear(2, 2)

    with torch.device("meta"):
        modules = nn.ModuleList([FrozenModule(load), nn.Linear(1, 1)])
    assert list(modules.state_dict()) == ["1.weight", "1.bias"] and loads == []
    network = modules[0].network()
    assert network.weight.device.type == "cpu" and not network.weight.requires_grad and not network.training
    assert modules[0].network() is network and len(loads) == 1
    modules.to("meta")
    assert network.weight.device.type == "meta" and modules[0].device.type == "meta"
    modules[0].unload()
    modules[0].pin_device("cpu")
    assert modules[0].network().weight.device.type == "cpu" and loads[-1].type == "cpu"


def test_an_unavailable_dtype_or_device_is_one_clear_line(lumina, toy_folder, tmp_path):
    for options, message in {
        (
            "--dtype",
            "floot16",
        ): "--dtype: got 'floot16', expected one of auto, float32, bfloat16, float16; did you mean 'float16'?",
        ("--text-device", "gpu9"): "--text-device: got 'gpu9', expected an available one",
    }.items():
        done = lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "x.json", *options)
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1


def test_the_command_has_options_for_dtype_offload_and_the_device_of_the_text_encoder(lumina, toy_folder, tmp_path):
    for options in (("--dtype", "auto"), ("--offload",), ("--text-device", "cpu", "--dtype", "bfloat16")):
        done = lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "x.json", "--overwrite", *options)
        assert (done.status, done.err) == (0, "")
