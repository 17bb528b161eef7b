"""Checkpoint format of Alpha-VLLM: `consolidated*.pth` or `.safetensors`, with `model_args.pth`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lumina_core.checkpoint.lazy_tensors import (
    ConcatTensor,
    ExportPlan,
    LazyTensor,
    LoadedCheckpoint,
    Weights,
    prefix_note,
    read_tensor,
    strip_wrappers,
)
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import namespace_bytes, open_torch_pickle, read_namespace
from lumina_core.errors import CheckpointError, LuminaError
from lumina_core.protocols import CheckpointFormat
from lumina_image.formats.next_dit import PAD_TOKEN, NextDiTAdapter, PublishedConfig, infer_config, pad_token
from lumina_image.formats.recipes import make_recipe, network_weights, published_config

FORMAT_NAME = "image.alpha_vllm"
ARGS_FILE = "model_args.pth"
EXPORT_STEM = "consolidated_ema.00-of-01"
"""Stem of the file that an export writes: the published samplers load the EMA weights by default."""
DEMO_SAMPLING = {
    "steps": 29,
    "solver": "core.midpoint",
    "schedule": {"type": "core.shift_schedule", "shift": 4.0},
    "rope_scaling": {"type": "core.watershed", "watershed": 0.3, "isotropic": True},
}
"""Sampling options of the published demo (lumina_next_t2i_mini/demo.py), whose 30 counts times and not steps."""
_WEIGHTS_FILE = re.compile(r"consolidated(_ema)?(?:\.(\d+)(?:-of-(\d+))?)?\.(pth|safetensors)")
_MODEL_SIZES = {(2304, 24): "2B", (3072, 32): "3B", (4096, 32): "7B", (1536, 16): "600M"}
_COLUMN_PARALLEL = re.compile(
    r"(layers\.\d+\.)?(x_embedder|t_embedder\.mlp\.0|cap_embedder\.1|final_layer\.(linear|adaLN_modulation\.1)"
    r"|adaLN_modulation\.1|attention\.(wq|wk|wv|wk_y|wv_y)|feed_forward\.(w1|w3))\.(weight|bias)"
    r"|layers\.\d+\.attention\.gate"
)
"""Tensors cut along their outputs (ColumnParallelLinear of lumina_next_t2i/models/model.py), biases included."""
_ROW_PARALLEL = re.compile(
    r"(t_embedder\.mlp\.2|layers\.\d+\.(attention\.wo|feed_forward\.w2)|y_embedder\.embedding_table)\.weight"
)
"""Matrices cut along their inputs (RowParallelLinear, ParallelEmbedding); their biases are complete in every file."""
ADAPTER = NextDiTAdapter()


class AlphaVLLMFormat(CheckpointFormat):
    """Folders of NextDiT (text-to-image) and DiT_Llama (ImageNet); EMA weights (`_ema`) come before others."""

    def matches(self, folder: Path) -> bool:
        """Return whether the folder has files of these names."""
        return (folder / ARGS_FILE).is_file() or any(_WEIGHTS_FILE.fullmatch(file.name) for file in folder.iterdir())

    def load(self, folder: Path) -> LoadedCheckpoint:
        """Open the model in a folder, with the subfolders `vae`, `text_encoder` and `tokenizer` if they exist.

        Raises:
            CheckpointError: files are missing, a file has code in it, or the tensors are not those of a Next-DiT.
        """
        model_args = read_namespace(folder / ARGS_FILE) if (folder / ARGS_FILE).is_file() else {}
        files = _find_weight_files(folder)
        where = str(files[0] if len(files) == 1 else folder)
        shards, prefixes = zip(*(strip_wrappers(_open_weights(file)) for file in files), strict=True)
        where += f" (without the prefix '{prefixes[0]}')" if prefixes[0] else ""
        try:
            original = merge_shards(shards, where)
            config = infer_config(original, model_args, where)
            weights = ADAPTER.from_foreign(original, config, where)
        except LuminaError as error:
            note = "".join(f" ({one})" for one in prefix_note(prefixes[0]) if prefixes[0] not in str(error))
            raise type(error)(f"{error}{note}") from error
        extra_tensors = {PAD_TOKEN: weights.pop(PAD_TOKEN)} if PAD_TOKEN in weights else {}
        source_metadata = {"checkpoint_format": FORMAT_NAME, "model_args": model_args}
        recipe = _recipe(config, model_args, folder)
        return LoadedCheckpoint(recipe, weights, extra_tensors, source_metadata, notes=prefix_note(prefixes[0]))

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """Plan a folder with one file of weights and the arguments.

        Raises:
            CheckpointError: the model has a component or an option that no published model has.
        """
        config = published_config(model, FORMAT_NAME)
        weights = dict(network_weights(model, FORMAT_NAME))
        if not config.imagenet:
            weights |= pad_token(model.extra_tensors, config, model.weights["backbone.embed.weight"].dtype)
        image_size = int(dict(model.recipe["task"]).get("image_size", 64))
        model_args = dict(model.source_metadata.get("model_args") or _model_args(config) | {"image_size": image_size})
        if _image_size(model_args, config) != image_size:
            model_args["image_size"] = image_size
        return ExportPlan(
            {EXPORT_STEM: ADAPTER.to_foreign(weights, config)},
            {ARGS_FILE: namespace_bytes(model_args)},
            single_file=True,
        )


def merge_shards(shards: Sequence[Weights], where: str) -> Weights:
    """Merge the tensors of tensor-parallel files, unread.

    Args:
        shards: tensors of each file, by rank.
        where: folder of the files, for messages.

    Raises:
        CheckpointError: the files have different names; or queries are normalised, which every rank did over its own
            heads alone, so that no single model computes the same numbers.
    """
    if len(shards) == 1:
        return shards[0]
    first = shards[0]
    if any(shard.keys() != first.keys() for shard in shards):
        raise CheckpointError(f"{where}: got files with different tensors, expected the same. Get them again.")
    if any(".q_norm." in name for name in first):
        raise CheckpointError(
            f"{where}: got {len(shards)} files with q_norm, expected one. Each rank normalised the queries over its "
            "own heads, so no single model computes the same numbers. Get a checkpoint in one file."
        )
    return {name: _merge_tensor(name, [shard[name] for shard in shards], where) for name in first}


def _merge_tensor(name: str, tensors: Sequence[LazyTensor], where: str) -> LazyTensor:
    if _COLUMN_PARALLEL.fullmatch(name):
        return ConcatTensor(tensors)
    if _ROW_PARALLEL.fullmatch(name):
        return ConcatTensor(tensors, dim=1)
    first = read_tensor(tensors[0])  # norms and biases, which are small
    for tensor in tensors[1:]:
        if tensor.shape != tensors[0].shape or not torch.equal(read_tensor(tensor), first):
            raise CheckpointError(
                f"{where}: {name}: got different values in its files, expected the same. Get them again."
            )
    return tensors[0]


def _open_weights(file: Path) -> Weights:
    return open_safetensors(file) if file.suffix == ".safetensors" else open_torch_pickle(file)


def _find_weight_files(folder: Path) -> list[Path]:
    """Find the files of one set of weights, by rank: EMA before others, safetensors before pth."""
    candidates = [(match, file) for file in sorted(folder.iterdir()) if (match := _WEIGHTS_FILE.fullmatch(file.name))]
    if not candidates:
        raise CheckpointError(f"{folder}: got {ARGS_FILE} alone, expected consolidated weights too. Get them.")
    first, _ = min(candidates, key=lambda pair: (pair[0][1] is None, pair[0][4] != "safetensors", pair[0][3] or ""))
    world_size = int(first[3] or 1)
    chosen = (first[1], first[3], first[4])
    shards = {int(match[2] or 0): file for match, file in candidates if (match[1], match[3], match[4]) == chosen}
    missing = [rank for rank in range(world_size) if rank not in shards]
    if missing:
        name = f"consolidated{first[1] or ''}.{missing[0]:02d}-of-{first[3]}.{first[4]}"
        raise CheckpointError(f"{folder}: got no {name}, expected {world_size} files. Get the missing ones.")
    return [shards[rank] for rank in range(world_size)]


def _recipe(config: PublishedConfig, model_args: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    image_size = _image_size(model_args, config)
    sources = {name: str(folder / name) for name in ("vae", "text_encoder", "tokenizer") if (folder / name).is_dir()}
    if model_args.get("vae") in ("ema", "mse"):
        sources.setdefault("vae", f"stabilityai/sd-vae-ft-{model_args['vae']}")
    if config.imagenet:
        return make_recipe(config, image_size, sources, {"steps": 30})
    num_tokens = (image_size // 16) ** 2
    sampling = {**DEMO_SAMPLING, "base_sequence_length": num_tokens if num_tokens > 1 else None}
    return make_recipe(config, image_size, sources, sampling)


def _image_size(model_args: Mapping[str, Any], config: PublishedConfig) -> int:
    return int(model_args.get("image_size") or (256 if config.imagenet else 1024))


def _model_args(config: PublishedConfig) -> dict[str, Any]:
    """Return the tensors that the published code reads, and the arguments that no shape determines."""
    size = _MODEL_SIZES.get((config.dim, config.n_layers), "custom")
    gqa_suffix = "_GQA" if config.n_kv_heads not in (None, config.n_heads) else ""
    model = f"{'DiT_Llama' if config.imagenet else 'NextDiT'}_{size}{gqa_suffix}_patch{config.patch_size}"
    return {"model": model, "vae": "ema" if config.imagenet else "sdxl", **ADAPTER.config_to(config)}
