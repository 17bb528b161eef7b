"""The folders of Alpha-VLLM: `consolidated*.pth` or `.safetensors`, and `model_args.pth` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lumina_core.checkpoint.lazy_tensors import (
    ConcatTensor,
    ExportPlan,
    InMemoryTensor,
    LazyTensor,
    LoadedCheckpoint,
    Weights,
    read_tensor,
)
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import namespace_bytes, open_torch_pickle, read_namespace
from lumina_core.errors import CheckpointError
from lumina_core.protocols import CheckpointFormat
from lumina_image.formats.config_mapping import PublishedConfig, expected_shapes, infer_from_shapes
from lumina_image.formats.key_mapping import PAD_TOKEN, check_tensors, from_original, split_key, to_original
from lumina_image.formats.recipes import (
    class_to_image_recipe,
    network_weights,
    text_to_image_recipe,
    to_published_config,
)

_COLUMN_PARALLEL = (
    "x_embedder.", "t_embedder.mlp.0.", "cap_embedder.1.", "final_layer.linear.", "final_layer.adaLN_modulation.1.",
    "adaLN_modulation.1.", "attention.wq.", "attention.wk.", "attention.wv.", "attention.wk_y.", "attention.wv_y.",
    "attention.gate", "feed_forward.w1.", "feed_forward.w3.",
)  # fmt: skip
"""Cut along their outputs (ColumnParallelLinear of lumina_next_t2i/models/model.py), their biases too."""
_ROW_PARALLEL = (
    "t_embedder.mlp.2.weight",
    "attention.wo.weight",
    "feed_forward.w2.weight",
    "y_embedder.embedding_table.weight",
)
"""Cut along their inputs (RowParallelLinear, ParallelEmbedding); their biases are whole in every file."""


def merge_shards(shards: Sequence[Weights], where: str) -> Weights:
    """The tensors of all parts as those of one model.

    Raises:
        CheckpointError: the parts have not the same names; or queries are normalised, which every part did over its own
            heads alone, so that no single model gives the same numbers.
    """
    if len(shards) == 1:
        return shards[0]
    first = shards[0]
    if any(shard.keys() != first.keys() for shard in shards):
        raise CheckpointError(f"{where}: the parts do not hold the same tensors; fetch them again")
    if any(".q_norm." in name for name in first):
        raise CheckpointError(
            f"{where} was trained in {len(shards)} parts, each of which normalises queries over its own heads alone; "
            "no single model gives the same numbers, so it cannot be put together"
        )
    return {name: _merge_tensor(name, [shard[name] for shard in shards], where) for name in first}


def _merge_tensor(name: str, tensors: Sequence[LazyTensor], where: str) -> LazyTensor:
    _, rest = split_key(name)
    if rest.startswith(_COLUMN_PARALLEL):
        return ConcatTensor(tensors)
    if rest in _ROW_PARALLEL:
        return ConcatTensor(tensors, dim=1)
    first_tensor = read_tensor(tensors[0])  # small: norms and biases
    if any(
        tensor.shape != tensors[0].shape or not torch.equal(read_tensor(tensor), first_tensor) for tensor in tensors[1:]
    ):
        raise CheckpointError(f"{where}: {name} is whole in every part, and differs from part to part; fetch it again")
    return tensors[0]


FORMAT_NAME = "image.alpha_vllm"
ARGS_FILE = "model_args.pth"
EXPORT_STEM = "consolidated_ema.00-of-01"
"""What is written: the published samplers take the average of the weights unless told otherwise."""
DEMO_SAMPLING = {
    "steps": 29, "solver": "core.midpoint", "schedule": {"type": "core.shift_schedule", "shift": 4.0},
    "rope_scaling": {"type": "core.watershed", "watershed": 0.3, "isotropic": True},
}  # fmt: skip
"""Of the published demo (lumina_next_t2i_mini/demo.py); its 30 counts points, ours steps."""
_WEIGHTS_FILE = re.compile(r"consolidated(_ema)?(?:\.(\d+)(?:-of-(\d+))?)?\.(pth|safetensors)")
_MODEL_SIZES = {(2304, 24): "2B", (3072, 32): "3B", (4096, 32): "7B", (1536, 16): "600M"}


class AlphaVLLMFormat(CheckpointFormat):
    """Text-to-image NextDiT, and DiT_Llama of ImageNet. Averaged weights (`_ema`) are taken where there are both."""

    def matches(self, folder: Path) -> bool:
        """Whether there are files of these names."""
        return (folder / ARGS_FILE).is_file() or any(_WEIGHTS_FILE.fullmatch(file.name) for file in folder.iterdir())

    def load(self, folder: Path) -> LoadedCheckpoint:
        """The model in the folder; `vae`, `text_encoder` and `tokenizer` beside it are taken where they are there.

        Raises:
            CheckpointError: parts are missing, code is in a file, or the tensors are not those of such a model.
        """
        model_args = read_namespace(folder / ARGS_FILE) if (folder / ARGS_FILE).is_file() else {}
        files = _find_weight_files(folder)
        where = str(files[0] if len(files) == 1 else folder)
        original = merge_shards([_open_weights(file) for file in files], where)
        config = infer_from_shapes({name: tensor.shape for name, tensor in original.items()}, model_args, where)
        check_tensors({n: p.shape for n, p in original.items()}, expected_shapes(config), where, lambda name: name)
        extra_tensors = {PAD_TOKEN: original[PAD_TOKEN]} if PAD_TOKEN in original else {}
        rest = {name: tensor for name, tensor in original.items() if name != PAD_TOKEN}
        weights = from_original(rest, config.in_channels, config.patch_size)
        return LoadedCheckpoint(
            _recipe(config, model_args, folder),
            weights,
            extra_tensors,
            {"checkpoint_format": FORMAT_NAME, "model_args": model_args},
        )

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """One file of weights under the published names, and the arguments.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        config = to_published_config(model, FORMAT_NAME)
        network = network_weights(model, FORMAT_NAME)
        original = to_original(network, config.in_channels, config.patch_size, imagenet=config.imagenet)
        weights = original if config.imagenet else {**pad_token(model, config), **original}
        image_size = int(dict(model.recipe["task"]).get("image_size", 64))
        model_args = dict(model.source_metadata.get("model_args") or {**_model_args(config), "image_size": image_size})
        if _image_size(model_args, config) != image_size:
            model_args["image_size"] = image_size
        return ExportPlan({EXPORT_STEM: weights}, {ARGS_FILE: namespace_bytes(model_args)}, single_file=True)


def pad_token(model: LoadedCheckpoint, config: PublishedConfig) -> dict[str, LazyTensor]:
    """The published `pad_token`: the one that came with the model, or zeros (it has no influence on a result)."""
    if PAD_TOKEN in model.extra_tensors:
        return {PAD_TOKEN: model.extra_tensors[PAD_TOKEN]}
    dtype = model.weights["backbone.embed.weight"].dtype
    return {PAD_TOKEN: InMemoryTensor(torch.zeros(config.dim, dtype=dtype))}


def _open_weights(file: Path) -> Weights:
    return open_safetensors(file) if file.suffix == ".safetensors" else open_torch_pickle(file)


def _find_weight_files(folder: Path) -> list[Path]:
    """The files of one set of weights, in the order of their parts: averaged before others, safetensors before pth."""
    candidates = [(hit, file) for file in sorted(folder.iterdir()) if (hit := _WEIGHTS_FILE.fullmatch(file.name))]
    if not candidates:
        raise CheckpointError(f"{folder} has {ARGS_FILE}, but no consolidated weights beside it; fetch them")
    first, _ = min(candidates, key=lambda pair: (pair[0][1] is None, pair[0][4] != "safetensors", pair[0][3] or ""))
    world_size = int(first[3] or 1)
    shards = {
        int(hit[2] or 0): file for hit, file in candidates if (hit[1], hit[3], hit[4]) == (first[1], first[3], first[4])
    }
    missing = [rank for rank in range(world_size) if rank not in shards]
    if missing:
        name = f"consolidated{first[1] or ''}.{missing[0]:02d}-of-{first[3]}.{first[4]}"
        raise CheckpointError(f"{folder} lacks {name}, one of {world_size} parts; fetch it")
    return [shards[rank] for rank in range(world_size)]


def _recipe(config: PublishedConfig, model_args: dict[str, Any], folder: Path) -> dict[str, Any]:
    image_size = _image_size(model_args, config)
    sources = {name: str(folder / name) for name in ("vae", "text_encoder", "tokenizer") if (folder / name).is_dir()}
    if "vae" not in sources and model_args.get("vae") in ("ema", "mse"):
        sources["vae"] = f"stabilityai/sd-vae-ft-{model_args['vae']}"
    if config.imagenet:
        return class_to_image_recipe(config, image_size, sources)
    num_tokens = (image_size // 16) ** 2
    return text_to_image_recipe(
        config, image_size, sources, {**DEMO_SAMPLING, "base_sequence_length": num_tokens if num_tokens > 1 else None}
    )


def _image_size(model_args: Mapping[str, Any], config: PublishedConfig) -> int:
    return int(model_args.get("image_size") or (256 if config.imagenet else 1024))


def _model_args(config: PublishedConfig) -> dict[str, Any]:
    """What the published code looks for, and the arguments themselves, which no shape tells."""
    a = config
    size = _MODEL_SIZES.get((a.dim, a.n_layers), "custom")
    gqa_suffix = "_GQA" if a.n_kv_heads not in (None, a.n_heads) else ""
    model = f"{'DiT_Llama' if a.imagenet else 'NextDiT'}_{size}{gqa_suffix}_patch{a.patch_size}"
    constructor_args = {
        key: value for key, value in a.model_dump().items() if key not in ("cap_feat_dim", "num_classes")
    }
    return {"model": model, "vae": "ema" if a.imagenet else "sdxl", **constructor_args}
