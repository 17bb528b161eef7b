"""What is wrong with a published folder is told in one line, and nothing is left behind."""

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


def test_code_in_the_weights_or_in_the_settings_is_told(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    folder = write_original(tmp_path / "1", tensors(SIZES))
    torch.save({**tensors(SIZES), "pad_token": Trap()}, folder / "consolidated.00-of-01.pth")
    assert "consolidated.00-of-01.pth: got code that runs" in conversion_error(folder)
    write_original(tmp_path / "1", tensors(SIZES), Namespace(model=Trap()))
    assert "model_args.pth: got code that runs" in conversion_error(folder)
    assert not (tmp_path / "sprung").exists()


def test_missing_surplus_and_misshapen_tensors_are_named_by_part(tmp_path):
    state = tensors(SIZES)
    del state["layers.1.attention.wo.weight"], state["final_layer.linear.bias"]
    state["layers.0.surprise"] = torch.zeros(1)
    state["cap_embedder.0.bias"] = torch.zeros(5)
    said = conversion_error(write_original(tmp_path / "1", state))
    assert "backbone: missing: layers.1.attention.wo.weight; surplus: layers.0.surprise; of another shape: " in said
    assert "cap_embedder.0.bias ((5,), wanted (12,))" in said
    assert "head: missing: final_layer.linear.bias" in said


def test_a_part_of_several_that_is_missing_is_named(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES), name="consolidated.00-of-02.pth")
    assert "lacks consolidated.01-of-02.pth, one of 2 parts" in conversion_error(folder)


def test_parts_that_normalise_queries_each_for_itself_are_refused(tmp_path):
    for rank in range(2):
        write_original(tmp_path / "1", tensors(SIZES), name=f"consolidated.{rank:02d}-of-02.pth")
    assert "each of which normalises queries over its own heads alone" in conversion_error(tmp_path / "1")


def test_settings_without_weights_are_told(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES))
    (folder / "consolidated.00-of-01.pth").unlink()
    assert "has model_args.pth, but no consolidated weights" in conversion_error(folder)


def test_weights_of_another_family_under_the_same_name_are_told(tmp_path):
    (tmp_path / "1").mkdir()
    torch.save({"tok_embeddings.weight": torch.zeros(3, 2)}, tmp_path / "1" / "consolidated.00.pth")
    assert "holds no Next-DiT: x_embedder.weight is missing" in conversion_error(tmp_path / "1")


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder of diffusers', its weights in two shards."""
    first = write_original(tmp_path / "original", tensors(SIZES))
    return converted(first, tmp_path / "theirs", most=150_000, format="image.diffusers")


def test_a_shard_that_the_index_names_and_is_not_there(theirs):
    shards = sorted((theirs / "transformer").glob("*-00002-of-*.safetensors"))
    shards[0].unlink()
    assert f"missing shards {shards[0].name}" in conversion_error(theirs)


def test_a_shard_that_was_cut_short(theirs):
    shard = sorted((theirs / "transformer").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard.name}: got a truncated or invalid file" in conversion_error(theirs)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "is of another family, StableDiffusionPipeline",
        ),
        ("transformer/config.json", {"_class_name": "Lumina2Transformer2DModel"}, "family, Lumina2Transformer2DModel"),
        ("model_index.json", [1], "cannot be read as settings"),
        ("transformer/config.json", {"_class_name": "LuminaNextDiT2DModel", "hidden_size": "x"}, "config.json: "),
    ],
)
def test_a_folder_of_another_family_or_with_damaged_settings(theirs, file, content, said):
    (theirs / file).write_text(json.dumps(content))
    assert said in conversion_error(theirs)


def test_a_folder_of_a_language_model(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text('{"model_type": "gemma", "architectures": ["GemmaModel"]}')
    assert "is of another family (architectures: ['GemmaModel'])" in conversion_error(tmp_path / "1")


def test_settings_that_ask_for_another_format_than_the_weights_have(theirs, tmp_path):
    config = read_json(theirs / "transformer" / "config.json")
    (theirs / "transformer" / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    assert "asks for bfloat16 weights, and those beside it are float32" in conversion_error(theirs)
    assert "say which format you want: --dtype" in conversion_error(theirs)
    converted(theirs, tmp_path / "asked", dtype=torch.float32)


def test_settings_of_other_sizes_than_the_weights_have(theirs):
    config = read_json(theirs / "transformer" / "config.json")
    (theirs / "transformer" / "config.json").write_text(json.dumps({**config, "num_layers": 3, "learn_sigma": False}))
    said = conversion_error(theirs)
    assert "backbone: missing: layers.2." in said and "head: of another shape: norm_out.linear_2.weight" in said


def test_a_query_that_is_not_the_same_twice_leaves_nothing_behind(theirs):
    place = theirs / "transformer"
    weights = {name: read_tensor(piece) for name, piece in open_weights(place, "diffusion_pytorch_model").items()}
    weights["layers.1.attn2.to_q.weight"] += 1e-3
    for file in place.glob("*.safetensors*"):
        file.unlink()
    save_file(weights, place / "diffusion_pytorch_model.safetensors")
    assert "layers.1.attn1.to_q.weight and layers.1.attn2.to_q.weight differ" in conversion_error(theirs)


def test_a_model_with_weights_that_have_no_published_place_is_refused_by_part(tiny_folder, tmp_path):
    assert "holds models" in conversion_error(tiny_folder, format="image.diffusers")
