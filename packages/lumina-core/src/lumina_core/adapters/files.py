"""LoRA files: peft's folder, and the single files of kohya's scripts, ComfyUI and diffusers.

The name and the hash of the base stand in the header of the safetensors file, where every program keeps them.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.adapters.lora import BaseHash, Lora, LoraWeights, linear_layers
from lumina_core.adapters.names import LayerNames, LayerPart
from lumina_core.adapters.source import CONFIG_FILE, WEIGHTS_FILE, find_file
from lumina_core.checkpoint.lazy_tensors import check_finite, read_tensor
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.config import suggest_or_list
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.io import atomic_dir, atomic_file, new_dir
from lumina_core.model import Model
from lumina_core.plugins.registry import Registry

BASE_KEY, HASH_KEYS = "base_model", ("base_sha256", "base_sha256_float16")
"""Header entries of the safetensors file."""
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_KINDS = {
    ".lora_A.weight": "a",
    ".lora_A.default.weight": "a",
    ".lora_down.weight": "a",
    ".lora.down.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.default.weight": "b",
    ".lora_up.weight": "b",
    ".lora.up.weight": "b",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
}
"""Ends of the names of tensors, and what they are."""


def read_lora(path: str | Path, model: Model, registry: Registry, strict: bool = True) -> Lora:
    """Read a LoRA: a folder of peft, the folder of a training, or a file of peft, kohya, ComfyUI or diffusers.

    Args:
        path: file or folder.
        model: the model that it is for; its layers decide what the names mean.
        registry: checkpoint formats that name layers in their own way.
        strict: refuse a file with keys that match no layer; False: skip them with a warning that names them.

    Raises:
        CheckpointError: the file is missing or damaged, a key matches no layer, a layer is incomplete or of another
            shape, or the adapter is of another kind.
    """
    file, config = find_file(Path(path))
    tensors = {name: read_tensor(tensor) for name, tensor in open_safetensors(file).items()}
    for name, tensor in tensors.items():
        check_finite(tensor, name, str(file))
    metadata = _read_metadata(file)
    names, unmatched = LayerNames(model, registry), list[str]()
    parts: dict[LayerPart, dict[str, Tensor]] = {}
    foreign_names: dict[LayerPart, str] = {}
    for key, tensor in tensors.items():
        kind = next((one for end, one in _KINDS.items() if key.endswith(end)), None)
        name = key if kind is None else key[: -len(next(end for end in _KINDS if key.endswith(end)))]
        part = None if kind is None else names.find(name)
        if part is None or kind is None:
            unmatched.append(key)
            continue
        known = parts.setdefault(part, {})
        if kind in known and not torch.equal(known[kind], tensor):
            raise CheckpointError(
                f"{path}: {key}: got other values than in {foreign_names[part]}, expected two copies of one tensor, as "
                "this model has one layer for both."
            )
        known[kind], foreign_names[part] = tensor, name
    if unmatched:
        _report_unmatched(path, sorted(unmatched), strict)
    if not parts:
        raise CheckpointError(f"{path}: got no LoRA of a layer of this model. Check the file, and the model.")
    alphas = _alphas(config, metadata, foreign_names)
    adapters = {part: _layer_weights(f"{path}: {foreign_names[part]}", part, found, alphas.get(part), model)
                for part, found in parts.items()}  # fmt: skip
    by_layer: dict[str, dict[LayerPart, LoraWeights]] = {}
    for part in sorted(adapters, key=lambda one: (one.layer, one.index)):
        by_layer.setdefault(part.layer, {})[part] = adapters[part]
    layers = {layer: names.native(by_layer[layer]) for layer in linear_layers(model) if layer in by_layer}
    base_model = metadata.get(BASE_KEY) or str(config.get("base_model_name_or_path") or "")
    return Lora(layers, base_model, BaseHash(*(metadata.get(key, "") for key in HASH_KEYS)))


def write_lora(lora: Lora, path: Path, model: Model, registry: Registry, file_format: str = "peft") -> Path:
    """Write a LoRA, atomically, and return the path of its weights.

    Args:
        lora: the LoRA.
        path: folder for `peft`, else a file that ends in .safetensors.
        model: the model that it is for.
        registry: checkpoint formats that name layers in their own way.
        file_format: peft, kohya, comfyui, or a checkpoint format with names of its own (`diffusers`).

    Raises:
        ConfigError: the format is unknown, or the path is of another kind.
        CheckpointError: the path cannot be written.
    """
    stated = {BASE_KEY: lora.base_model, **dict(zip(HASH_KEYS, lora.base_hash, strict=True))}
    metadata = {"format": "pt"} | {key: value for key, value in stated.items() if value}
    names = LayerNames(model, registry)
    file_format = _resolve_format(file_format, names.formats)
    try:
        if file_format == "peft":
            if path.suffix == ".safetensors" or path.is_file():
                raise ConfigError(f"destination: got {path}, expected a folder: peft's format has two files.")
            with atomic_dir(path) as partial:
                save_file(_peft_tensors(lora), partial / WEIGHTS_FILE, metadata)
                text = json.dumps(_peft_config(lora), indent=2) + "\n"
                (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
            return path / WEIGHTS_FILE
        if path.suffix != ".safetensors":
            raise ConfigError(f"destination: got {path}, expected a file that ends in .safetensors.")
        tensors, extra = _file_tensors(lora, names, file_format)
        with new_dir(path.parent), atomic_file(path) as partial:
            save_file(tensors, partial, metadata | extra)
        return path
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path} ({' '.join(str(error).split())}).") from error


def stated_base(path: str | Path) -> str:
    """Return the name or folder of the model that a LoRA says it is for; empty: it says none.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    file, config = find_file(Path(path))
    open_safetensors(file)
    return _read_metadata(file).get(BASE_KEY) or str(config.get("base_model_name_or_path") or "")


def _read_metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def _report_unmatched(path: str | Path, keys: list[str], strict: bool) -> None:
    message = f"{path}: got {len(keys)} keys that match no layer of this model: {', '.join(keys)}."
    if strict:
        raise CheckpointError(f"{message} Open the model that the LoRA is for, or skip these keys (strict=False).")
    warnings.warn(f"{message} They are skipped.", stacklevel=4)


def _alphas(
    config: Mapping[str, Any], metadata: Mapping[str, str], names: Mapping[LayerPart, str]
) -> dict[LayerPart, float]:
    """Return the alpha of each layer from the config of peft, or from the same settings in a file of diffusers."""
    if not config and _DIFFUSERS_METADATA in metadata:
        try:
            content = dict(json.loads(metadata[_DIFFUSERS_METADATA]))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{_DIFFUSERS_METADATA}: got no JSON ({error}), expected that of diffusers."
            ) from error
        config = {key.removeprefix("transformer."): value for key, value in content.items()}
    if "lora_alpha" not in config:
        return {}
    try:
        return _alphas_of_config(config, names)
    except (TypeError, ValueError, ZeroDivisionError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{CONFIG_FILE}: got alphas and ranks that are no numbers ({error}).") from error


def _alphas_of_config(config: Mapping[str, Any], names: Mapping[LayerPart, str]) -> dict[LayerPart, float]:
    patterns: Mapping[str, float] = dict(config.get("alpha_pattern") or {})
    ranks: Mapping[str, int] = dict(config.get("rank_pattern") or {})
    alphas = {}
    for part, name in names.items():
        plain = name.removeprefix("base_model.model.").removeprefix("transformer.")
        alpha = _by_pattern(patterns, plain, config["lora_alpha"])
        if config.get("use_rslora"):  # the update is b a times alpha / sqrt(rank)
            alpha *= math.sqrt(_by_pattern(ranks, plain, config["r"]))
        if not math.isfinite(alpha):
            raise ValueError(f"alpha {alpha}")
        alphas[part] = float(alpha)
    return alphas


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> float:
    ends = [key for key in patterns if name == key or name.endswith(f".{key}")]
    return float(patterns[ends[0]] if ends else default)


def _layer_weights(
    source: str, part: LayerPart, found: Mapping[str, Tensor], alpha: float | None, model: Model
) -> LoraWeights:
    """Check the tensors of one layer of a file.

    Raises:
        CheckpointError: A or B is missing, or of another shape than the layer's.
    """
    if not {"a", "b"} <= found.keys():
        missing = "A (lora_A, lora_down)" if "a" not in found else "B (lora_B, lora_up)"
        raise CheckpointError(f"{source}: got no {missing}, expected both matrices. Get the file again.")
    a, b = (found[key].flatten(1) if found[key].ndim > 2 else found[key] for key in ("a", "b"))
    in_features, rows = linear_layers(model)[part.layer].in_features, part.rows[1] - part.rows[0]
    if a.ndim != 2 or b.ndim != 2 or a.shape != (len(a), in_features) or b.shape != (rows, len(a)):
        raise CheckpointError(
            f"{source}: got A {tuple(a.shape)} and B {tuple(b.shape)}, expected (rank, {in_features}) and ({rows}, "
            "rank). Open the model that the LoRA was trained on."
        )
    magnitude = found.get("magnitude")
    if magnitude is not None and magnitude.numel() != rows:
        raise CheckpointError(f"{source}: got {magnitude.numel()} norms of rows, expected {rows}.")
    if "alpha" in found:
        alpha = float(found["alpha"])
    return LoraWeights(
        a, b, float(len(a)) if alpha is None else alpha, None if magnitude is None else magnitude.flatten()
    )


def _resolve_format(name: str, formats: tuple[str, ...]) -> str:
    matches = [one for one in formats if name in (one, one.rpartition(".")[2])]
    if len(matches) != 1:
        raise ConfigError(f"format: got '{name}', expected a format of LoRA files{suggest_or_list(name, formats)}")
    return matches[0]


def _peft_tensors(lora: Lora) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, one in lora.layers.items():
        name = f"base_model.model.{layer}"
        tensors |= {f"{name}.lora_A.weight": one.a, f"{name}.lora_B.weight": one.b}
        if one.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = one.magnitude
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _peft_config(lora: Lora) -> dict[str, Any]:
    """Return the content of adapter_config.json; peft fills in the rest with its defaults."""
    first = next(iter(lora.layers.values()))
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": lora.base_model or None,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": list(lora.layers),
        "rank_pattern": {layer: one.rank for layer, one in lora.layers.items() if one.rank != first.rank},
        "alpha_pattern": {layer: one.alpha for layer, one in lora.layers.items() if one.alpha != first.alpha},
        "use_dora": first.magnitude is not None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _file_tensors(lora: Lora, names: LayerNames, file_format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a single file, and further entries of its header."""
    kohya, comfyui = file_format == "kohya", file_format == "comfyui"
    tensors: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    ranks: dict[str, int] = {}
    for layer, weights in lora.layers.items():
        for name, one in names.foreign(layer, weights, file_format).items():
            prefix = (
                f"lora_unet_{name.replace('.', '_')}"
                if kohya
                else f"{'diffusion_model' if comfyui else 'transformer'}.{name}"
            )
            down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
            # safetensors refuses tensors that share memory
            tensors |= {f"{prefix}.{down}.weight": one.a.clone(), f"{prefix}.{up}.weight": one.b.clone()}
            alphas[name], ranks[name] = one.alpha, one.rank
            if kohya or comfyui:
                tensors[f"{prefix}.alpha"] = torch.tensor(one.alpha)
            if one.magnitude is not None and (kohya or comfyui):
                tensors[f"{prefix}.dora_scale"] = one.magnitude[:, None].clone()
            elif one.magnitude is not None:
                tensors[f"{prefix}.lora_magnitude_vector"] = one.magnitude.clone()
    if kohya or comfyui:
        return tensors, {}
    alpha, rank = next(iter(alphas.values())), next(iter(ranks.values()))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(alphas),
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "use_dora": any(one.magnitude is not None for one in lora.layers.values()),
    }
    content = {f"transformer.{key}": value for key, value in settings.items()}
    return tensors, {_DIFFUSERS_METADATA: json.dumps(content, indent=2, sort_keys=True)}
