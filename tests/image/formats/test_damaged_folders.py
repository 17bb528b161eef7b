"""A damaged published folder results in a one-line error, and no output."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from published_checkpoints import SIZES, conversion_error, converted, read_json, tensors, write_original
from safetensors.torch import save_file

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.safetensors_io import open_weights


def test_code_in_weights_or_arguments_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    folder = write_original(tmp_path / "1", tensors(SIZES))
    torch.save({**tensors(SIZES), "pad_token": Trap()}, folder / "consolidated.00-of-01.pth")
    assert "consolidated.00-of-01.pth: got code that runs" in conversion_error(folder)
    write_original(tmp_path / "1", tensors(SIZES), Namespace(model=Trap()))
    assert "model_args.pth: got code that runs" in conversion_error(folder)
    assert not (tmp_path / "sprung").exists()


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    state = tensors(SIZES)
    del state["layers.1.attention.wo.weight"], state["final_layer.linear.bias"]
    state["layers.0.surprise"] = torch.zeros(1)
    state["cap_embedder.0.bias"] = torch.zeros(5)
    message = conversion_error(write_original(tmp_path / "1", state))
    for problem in (
        "missing: layers.1.attention.wo.weight, final_layer.linear.bias; unexpected: layers.0.surprise",
        "other shape: cap_embedder.0.bias is (5,), expected (12,)",
    ):
        for words in problem.split(", "):
            assert words in message


def test_a_missing_file_of_several_is_named(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES), name="consolidated.00-of-02.pth")
    assert "got no consolidated.01-of-02.pth, expected 2 files" in conversion_error(folder)


def test_tensor_parallel_files_with_query_norms_are_refused(tmp_path):
    for rank in range(2):
        write_original(tmp_path / "1", tensors(SIZES), name=f"consolidated.{rank:02d}-of-02.pth")
    assert "got 2 files with q_norm, expected one" in conversion_error(tmp_path / "1")


def test_arguments_without_weights_are_refused(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES))
    (folder / "consolidated.00-of-01.pth").unlink()
    assert "got model_args.pth alone, expected consolidated weights too" in conversion_error(folder)


def test_weights_of_another_model_under_the_same_name_are_refused(tmp_path):
    (tmp_path / "1").mkdir()
    torch.save({"tok_embeddings.weight": torch.zeros(3, 2)}, tmp_path / "1" / "consolidated.00.pth")
    assert "got no matrix x_embedder.weight, expected the weights of a Next-DiT" in conversion_error(tmp_path / "1")


@pytest.fixture
def diffusers_folder(tmp_path) -> Path:
    """A folder of diffusers with its weights in two shards."""
    first = write_original(tmp_path / "original", tensors(SIZES))
    return converted(first, tmp_path / "diffusers", most=150_000, format="image.diffusers")


def test_a_missing_shard_is_named(diffusers_folder):
    shards = sorted((diffusers_folder / "transformer").glob("*-00002-of-*.safetensors"))
    shards[0].unlink()
    assert f"missing shards {shards[0].name}" in conversion_error(diffusers_folder)


def test_a_truncated_shard_is_named(diffusers_folder):
    shard = sorted((diffusers_folder / "transformer").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard.name}: got a truncated or invalid file" in conversion_error(diffusers_folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "got _class_name StableDiffusionPipeline, expected LuminaPipeline",
        ),
        (
            "transformer/config.json",
            {"_class_name": "Lumina2Transformer2DModel"},
            "_class_name Lumina2Transformer2DModel, expected",
        ),
        ("model_index.json", [1], "got no readable JSON mapping"),
        ("transformer/config.json", {"_class_name": "LuminaNextDiT2DModel", "hidden_size": "x"}, "config.json: "),
    ],
)
def test_a_folder_of_another_model_or_with_a_damaged_config_is_refused(diffusers_folder, file, content, message):
    (diffusers_folder / file).write_text(json.dumps(content))
    assert message in conversion_error(diffusers_folder)


def test_a_folder_of_a_language_model_is_refused(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text('{"model_type": "gemma", "architectures": ["GemmaModel"]}')
    assert "got a model of another family (architectures: ['GemmaModel'])" in conversion_error(tmp_path / "1")


def test_a_config_with_another_dtype_than_the_weights_is_refused(diffusers_folder, tmp_path):
    config = read_json(diffusers_folder / "transformer" / "config.json")
    (diffusers_folder / "transformer" / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    assert "dtype: got bfloat16, expected float32, the dtype of its weights" in conversion_error(diffusers_folder)
    assert "choose a dtype when the model is loaded" in conversion_error(diffusers_folder)
    converted(diffusers_folder, tmp_path / "asked", dtype=torch.float32)


def test_a_config_of_other_sizes_than_the_weights_is_refused(diffusers_folder):
    config = read_json(diffusers_folder / "transformer" / "config.json")
    (diffusers_folder / "transformer" / "config.json").write_text(
        json.dumps({**config, "num_layers": 3, "learn_sigma": False})
    )
    message = conversion_error(diffusers_folder)
    assert "missing: layers.2." in message and "other shape: norm_out.linear_2.weight" in message


def test_different_copies_of_the_query_leave_no_output(diffusers_folder):
    transformer = diffusers_folder / "transformer"
    weights = {name: read_tensor(piece) for name, piece in open_weights(transformer, "diffusion_pytorch_model").items()}
    weights["layers.1.attn2.to_q.weight"] += 1e-3
    for file in transformer.glob("*.safetensors*"):
        file.unlink()
    save_file(weights, transformer / "diffusion_pytorch_model.safetensors")
    assert "layers.1.attn1.to_q.weight and layers.1.attn2.to_q.weight: got different values" in conversion_error(
        diffusers_folder
    )


def test_a_model_with_components_that_no_published_model_has_is_refused(tiny_folder, tmp_path):
    assert "the format image.diffusers has no other" in conversion_error(tiny_folder, format="image.diffusers")
