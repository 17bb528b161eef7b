"""A CUDA device computes what the CPU computes; tests marked `gpu`, skipped without one."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.device import resolve_dtype
from lumina_core.model_dir import read_weights
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("toy"),
]
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2}
"""Largest differences from float32 on the CPU, relative to the largest value."""


def generate(folder, **options):
    """Generate one signal, and return its data and the pipeline."""
    pipe = Pipeline.from_pretrained(folder, **options)
    return pipe(word="red cat", seed=1)[0].data, pipe


def assert_close(data, expected, dtype="float32"):
    assert data.device.type == "cpu"
    assert (data - expected).abs().max() <= TOLERANCES[dtype] * expected.abs().max()


def test_auto_dtype_is_bfloat16_with_hardware_support_only():
    has_support = torch.cuda.get_device_capability() >= (8, 0)
    assert resolve_dtype("auto", torch.device("cuda")) == (torch.bfloat16 if has_support else torch.float32)


def test_cuda_without_an_index_is_the_current_device(toy_folder):
    data, pipe = generate(toy_folder, device="cuda")
    assert pipe.placement.device == torch.device("cuda", torch.cuda.current_device())
    assert {parameter.device for parameter in pipe.model.parameters()} == {pipe.placement.device}
    assert_close(data, generate(toy_folder, device="cuda:0")[0])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_generation_equals_that_on_the_cpu(toy_folder, dtype):
    data, _ = generate(toy_folder, device="cuda", dtype=dtype)
    assert_close(data, generate(toy_folder, dtype="float32")[0], dtype)


def test_a_compiled_pipeline_generates_the_same_repeatedly(toy_folder):
    data, pipe = generate(toy_folder, device="cuda", compile=True)
    expected, _ = generate(toy_folder)
    assert_close(data, expected)
    # CUDA graphs reuse their output buffers
    assert_close(pipe(word="red cat", seed=1)[0].data, expected)


@pytest.mark.parametrize("text_device", [None, "cpu"])
def test_offload_generates_the_same_and_frees_the_device(toy_folder, text_device):
    data, pipe = generate(toy_folder, device="cuda", offload=True, text_device=text_device)
    assert_close(data, generate(toy_folder)[0])
    assert {parameter.device.type for parameter in pipe.model.parameters()} == {"cpu"}


def test_a_pipeline_moves_to_the_device_and_back(toy_folder):
    expected, pipe = generate(toy_folder)
    assert_close(pipe.to("cuda")(word="red cat", seed=1)[0].data, expected)
    assert_close(pipe.to("cpu")(word="red cat", seed=1)[0].data, expected)


def test_one_training_step_equals_that_on_the_cpu(tmp_path):
    weights = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        Trainer(recipe("word", steps=1, checkpoint_interval=1), folder, device=device, registry=registry()).train()
        weights[device] = read_weights(folder / "model" / "model.safetensors")
    assert weights["cuda"].keys() == weights["cpu"].keys()
    for name, expected in weights["cpu"].items():
        # the first step of Adam is lr * sign(gradient): a gradient near 0 may have another sign
        share = (weights["cuda"][name] - expected).abs().gt(1e-4).float().mean()
        assert share <= 0.05, name
