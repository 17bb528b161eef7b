"""Published folders are converted exactly, in both directions; damaged ones are one-line errors."""

from __future__ import annotations

from argparse import Namespace
from itertools import product
from pathlib import Path

import pytest
import torch
from published_checkpoints import (
    REGISTRY,
    SIZES,
    class_conditional_tensors,
    conversion_error,
    converted,
    equal_weights,
    make_model_args,
    read_json,
    tensors,
    write_original,
)  # fmt: skip
from safetensors.torch import save_file

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, read_tensor
from lumina_core.checkpoint.safetensors_io import open_safetensors, open_weights, write_weights
from lumina_core.checkpoint.torch_pickle import open_torch_pickle, read_namespace
from lumina_core.convert import plan_conversion
from lumina_core.model_dir import detect_format, open_model_dir

SHAPES = [
    (kv, qk_norm, sigma, dtype)
    for (kv, qk_norm, sigma), dtype in zip(
        product((None, 2, 1), (True, False), (True, False)), 6 * (torch.bfloat16, torch.float32), strict=True
    )
]


@pytest.mark.parametrize(("kv", "qk_norm", "sigma", "dtype"), SHAPES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_original_to_ours_to_diffusers_to_ours_to_original_changes_no_bit(tmp_path, kv, qk_norm, sigma, dtype, suffix):
    sizes = {**SIZES, "n_kv_heads": kv, "qk_norm": qk_norm, "learn_sigma": sigma}
    state, arguments = tensors(sizes, dtype), make_model_args(qk_norm=qk_norm)
    first = write_original(tmp_path / "1", state, arguments, f"consolidated.00-of-01.{suffix}")
    second = converted(first, tmp_path / "2", most=20_000)
    third = converted(second, tmp_path / "3", most=30_000, format="image.diffusers")
    fourth = converted(third, tmp_path / "4")
    fifth = converted(fourth, tmp_path / "5", format="image.alpha_vllm")
    assert equal_weights(open_weights(fifth, "consolidated_ema.00-of-01"), state)
    assert read_namespace(fifth / "model_args.pth") == vars(arguments)
    assert equal_weights(
        open_weights(second, "model"), {n: read_tensor(p) for n, p in open_weights(fourth, "model").items()}
    )


def test_a_class_conditional_model_survives_a_round_trip_and_is_refused_by_diffusers(tmp_path):
    state = class_conditional_tensors()
    folder = write_original(tmp_path / "1", state, Namespace(model="DiT_Llama_600M_patch2", image_size=256, vae="mse"))
    ours = converted(folder, tmp_path / "2")
    recipe = open_model_dir(ours, REGISTRY).recipe
    assert recipe.conditioners[0].options["num_classes"] == 5
    assert recipe.autoencoder.options["source"] == "stabilityai/sd-vae-ft-mse"
    again = converted(ours, tmp_path / "3", format="alpha_vllm")
    assert equal_weights(open_weights(again, "consolidated_ema.00-of-01"), state)
    assert "image.diffusers: got a class-conditional model" in conversion_error(ours, format="image.diffusers")


def test_ema_weights_are_preferred(tmp_path):
    plain, averaged = tensors(SIZES), tensors(SIZES, seed=1)
    write_original(tmp_path / "1", plain)
    write_original(tmp_path / "1", averaged, name="consolidated_ema.00-of-01.pth")
    ours = open_weights(converted(tmp_path / "1", tmp_path / "2"), "model")
    assert torch.equal(read_tensor(ours["backbone.embed.weight"]), averaged["x_embedder.weight"])


def test_weights_are_stored_in_the_requested_dtype(tmp_path):
    state = tensors(SIZES)
    ours = open_weights(converted(write_original(tmp_path / "1", state), tmp_path / "2", dtype=torch.bfloat16), "model")
    assert {piece.dtype for piece in ours.values()} == {torch.bfloat16}
    assert torch.equal(read_tensor(ours["backbone.embed.weight"]), state["x_embedder.weight"].bfloat16())


def test_sizes_that_only_the_settings_tell_are_heard(tmp_path):
    folder = write_original(
        tmp_path / "1", class_conditional_tensors(), Namespace(n_heads=8, norm_eps=1e-3, image_size=512)
    )
    recipe = open_model_dir(folder, REGISTRY).recipe
    assert recipe.backbone is not None
    assert (recipe.backbone.options["num_heads"], recipe.backbone.options["eps"]) == (8, 1e-3)
    assert recipe.task.options["image_size"] == 512


def test_what_lies_beside_the_weights_is_taken_for_what_they_were_trained_with(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    recipe = open_model_dir(folder, REGISTRY).recipe
    assert recipe.autoencoder.options["source"] == str(folder / "vae")
    assert recipe.conditioners[0].options["source"] == "google/gemma-2b"
    referenced = plan_conversion(folder, REGISTRY)
    assert "bundle it to make a copy" in referenced.export_plan.notes[0]
    taken = converted(folder, tmp_path / "2", bundle=True)
    assert (taken / "vae" / "config.json").is_file()
    assert read_json(taken / "config.json")["recipe"]["autoencoder"]["source"] == "./vae"
    assert open_model_dir(taken, REGISTRY).recipe.autoencoder.options["source"] == str(taken.resolve() / "vae")


def test_parts_of_a_model_without_query_norms_are_put_together(tmp_path):
    state = tensors({**SIZES, "qk_norm": False})
    columns = (
        "wq",
        "wk",
        "wv",
        "wk_y",
        "wv_y",
        "gate",
        "w1",
        "w3",
        "adaLN",
        "x_embedder",
        "mlp.0",
        "cap_embedder.1",
        "final_",
    )
    for rank in range(2):
        half = {
            name: tensor.chunk(2, 1)[rank].contiguous()
            if name.endswith(("wo.weight", "w2.weight", "mlp.2.weight"))
            else tensor.chunk(2)[rank].contiguous()
            if any(part in name for part in columns)
            else tensor
            for name, tensor in state.items()
        }
        write_original(tmp_path / "1", half, make_model_args(qk_norm=False), f"consolidated.{rank:02d}-of-02.pth")
    again = converted(converted(tmp_path / "1", tmp_path / "2"), tmp_path / "3", format="alpha_vllm")
    assert equal_weights(open_safetensors(again / "consolidated_ema.00-of-01.safetensors"), state)


def test_a_folder_is_known_by_its_files_and_one_of_ours_is_nobody_elses(tmp_path):
    folder = write_original(tmp_path / "1", tensors(SIZES))
    ours = converted(folder, tmp_path / "2")
    theirs = converted(ours, tmp_path / "3", format="diffusers")
    folders = (folder, theirs, theirs / "transformer", ours, tmp_path, tmp_path / "none")
    known = ["image.alpha_vllm", "image.diffusers", "image.diffusers", None, None, None]
    assert [detect_format(folder, REGISTRY) for folder in folders] == known


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder of diffusers', its weights in two shards."""
    first = write_original(tmp_path / "original", tensors(SIZES))
    return converted(first, tmp_path / "theirs", most=150_000, format="image.diffusers")


@pytest.mark.parametrize("form", ["older names", "variant", "shards of a variant", "pickled", "alone"])
def test_other_forms_of_the_same_folder_are_read_too(theirs, tmp_path, form):
    place = theirs / "transformer"
    weights = {name: read_tensor(piece) for name, piece in open_weights(place, "diffusion_pytorch_model").items()}
    for file in place.glob("*.safetensors*"):
        file.unlink()
    older = {
        "patch_embedder.proj.": "patch_embedder.",
        "norm1.linear.": "adaLN_modulation.1.",
        "norm1.norm.": "attn_norm1.",
    }
    if form == "older names":
        for new, old in older.items():
            weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
    if form == "shards of a variant":
        write_weights(
            place / "w", {name: InMemoryTensor(tensor) for name, tensor in weights.items()}, max_shard_bytes=100_000
        )
        index = (place / "w.safetensors.index.json").read_text().replace("w-0", "diffusion_pytorch_model.fp16-0")
        (place / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(index)
        for file in place.glob("w-*"):
            file.rename(place / file.name.replace("w-0", "diffusion_pytorch_model.fp16-0"))
    elif form == "pickled":
        torch.save(weights, place / "diffusion_pytorch_model.bin")
    else:
        save_file(weights, place / f"diffusion_pytorch_model{'.fp16' if form == 'variant' else ''}.safetensors")
    again = converted(place if form == "alone" else theirs, tmp_path / "again")
    state = open_torch_pickle(tmp_path / "original" / "consolidated.00-of-01.pth")
    assert torch.equal(
        read_tensor(open_weights(again, "model")["head.modulation.weight"]),
        read_tensor(state["final_layer.adaLN_modulation.1.weight"]),
    )
