"""The folders of diffusers' Lumina-Next: the network, what lies beside it and its settings; or the network alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint, Weights
from lumina_core.checkpoint.safetensors_io import has_weights, open_safetensors, open_shards, open_weights
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError
from lumina_core.protocols import CheckpointFormat
from lumina_image.formats import config_mapping as sizes
from lumina_image.formats.alpha_vllm import pad_token
from lumina_image.formats.key_mapping import (
    PAD_TOKEN,
    check_tensors,
    from_diffusers,
    from_original,
    modernize_key,
    original_key_to_diffusers,
    to_diffusers,
    to_original,
)
from lumina_image.formats.key_mapping import diffusers_key_to_original as original_name
from lumina_image.formats.recipes import DOWNSAMPLE_FACTOR, network_weights, text_to_image_recipe, to_published_config

FORMAT_NAME = "image.diffusers"
TRANSFORMER_DIR, WEIGHTS_STEM, INDEX_FILE = "transformer", "diffusion_pytorch_model", "model_index.json"
SCHEDULER_FILE = "scheduler/scheduler_config.json"
MODEL_CLASS = "LuminaNextDiT2DModel"
PIPELINE_CLASSES = ("LuminaPipeline", "LuminaText2ImgPipeline")
"""The class of a whole folder, by its name today and its older one."""
METADATA_KEY = "_lumina"
"""Where a folder remembers what diffusers has no place for; names with a leading line are passed over there."""
DEFAULT_SCHEDULER_CONFIG = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0,
    "use_dynamic_shifting": False,
}  # fmt: skip


class DiffusersFormat(CheckpointFormat):
    """LuminaPipeline's folder, or a LuminaNextDiT2DModel's own; names of the older converter are read too."""

    def matches(self, folder: Path) -> bool:
        """Whether there are settings of diffusers."""
        return (folder / INDEX_FILE).is_file() or "_class_name" in _read_settings(
            folder / "config.json", required=False
        )

    def load(self, folder: Path) -> LoadedCheckpoint:
        """The model in the folder; what lies beside the network is named by its place.

        Raises:
            CheckpointError: another family, missing shards, or the tensors are not those of such a model.
        """
        index = _read_settings(folder / INDEX_FILE, required=False)
        _check_class(folder / INDEX_FILE, index, PIPELINE_CLASSES if index else ())
        model_dir = folder / TRANSFORMER_DIR if index else folder
        config = _read_settings(model_dir / "config.json")
        _check_class(model_dir / "config.json", config, (MODEL_CLASS,))
        published_config = sizes.from_diffusers(config, str(model_dir / "config.json"))
        tensors = {modernize_key(name): tensor for name, tensor in _open_weights(model_dir).items()}
        expected = {
            new: shape
            for old, shape in sizes.expected_shapes(published_config).items()
            for new in original_key_to_diffusers(old)
        }
        check_tensors({n: p.shape for n, p in tensors.items()}, expected, str(model_dir), original_name)
        original = from_diffusers(tensors)
        extra_tensors = {PAD_TOKEN: original.pop(PAD_TOKEN)} if PAD_TOKEN in original else {}
        weights = from_original(original, published_config.in_channels, published_config.patch_size)
        scheduler_config = _read_settings(folder / SCHEDULER_FILE, required=False) if index else {}
        recipe = _recipe(published_config, config, scheduler_config, folder if index else None)
        source_metadata = {
            **dict(config.get(METADATA_KEY) or {}),
            "checkpoint_format": FORMAT_NAME,
            "transformer": _extra_config(config),
            "scheduler": scheduler_config,
        }
        dtype = config.get("dtype") or config.get("torch_dtype")
        return LoadedCheckpoint(
            recipe,
            weights,
            extra_tensors,
            source_metadata,
            None if dtype is None else str(dtype).removeprefix("torch."),
        )

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """A whole folder; what lies outside is copied where it is a folder, and said where it is not.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        published_config = to_published_config(model, FORMAT_NAME)
        if published_config.imagenet:
            raise CheckpointError(
                f"{FORMAT_NAME} has no place for a model that is told a class; write image.alpha_vllm"
            )
        network = to_original(
            network_weights(model, FORMAT_NAME), published_config.in_channels, published_config.patch_size
        )
        weights = to_diffusers({**pad_token(model, published_config), **network})
        folders, notes = _external_folders(model.recipe)
        scheduler_config = dict(model.source_metadata.get("scheduler") or DEFAULT_SCHEDULER_CONFIG)
        files = {
            f"{TRANSFORMER_DIR}/config.json": _export_config(model, published_config), SCHEDULER_FILE: scheduler_config, INDEX_FILE: _model_index(folders, scheduler_config)
        }  # fmt: skip
        file_contents = {
            name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode() for name, content in files.items()
        }
        return ExportPlan({f"{TRANSFORMER_DIR}/{WEIGHTS_STEM}": weights}, file_contents, folders, notes=notes)


def _recipe(
    published_config: sizes.PublishedConfig,
    config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    folder: Path | None,
) -> dict[str, Any]:
    names = ("vae", "text_encoder", "tokenizer") if folder is not None else ()
    sources = {name: str(folder / name) for name in names if folder is not None and (folder / name).is_dir()}
    latent_size = int(config.get("sample_size") or 128)
    # where its settings say nothing, the tokenizer of Gemma pads on the left
    settings = (
        _read_settings(Path(sources["tokenizer"]) / "tokenizer_config.json", required=False)
        if "tokenizer" in sources
        else None
    )
    padding = "right" if settings is None else settings.get("padding_side", "left")
    return text_to_image_recipe(
        published_config,
        latent_size * DOWNSAMPLE_FACTOR,
        {**sources, "padding": padding},
        _sampling(latent_size, scheduler_config),
    )


def _sampling(latent_size: int, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of diffusers' call: 30 steps of Euler on the grid of its settings, positions always interpolated."""
    schedule = {
        "type": "core.diffusers_schedule",
        **{key: scheduler_config[key] for key in ("shift", "num_train_timesteps") if key in scheduler_config},
    }
    num_tokens = (latent_size * DOWNSAMPLE_FACTOR // 16) ** 2
    return {
        "steps": 30, "solver": "core.euler", "schedule": schedule,
        "rope_scaling": {"type": "core.interpolation", "isotropic": True, "scale_down": True},
        "base_sequence_length": num_tokens if num_tokens > 1 else None,
    }  # fmt: skip


def _open_weights(model_dir: Path) -> Weights:
    """Plain weights before those of a variant (`fp16`), whole ones before shards, and a pickle last."""
    if has_weights(model_dir, WEIGHTS_STEM):
        return open_weights(model_dir, WEIGHTS_STEM)
    indices = sorted(model_dir.glob(f"{WEIGHTS_STEM}.safetensors.index.*.json"))
    if indices:
        return open_shards(indices[0])
    variants = sorted(file for file in model_dir.glob(f"{WEIGHTS_STEM}.*.safetensors") if "-of-" not in file.name)
    if variants:
        return open_safetensors(variants[0])
    pickle_file = model_dir / f"{WEIGHTS_STEM}.bin"
    return (
        open_torch_pickle(pickle_file)
        if pickle_file.is_file()
        else open_safetensors(model_dir / f"{WEIGHTS_STEM}.safetensors")
    )


def _extra_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the network's settings say besides the sizes."""
    return {key: value for key, value in config.items() if key not in sizes.DIFFUSERS_ARGUMENTS and key != METADATA_KEY}


def _export_config(model: LoadedCheckpoint, published_config: sizes.PublishedConfig) -> dict[str, Any]:
    image_size = int(dict(model.recipe["task"]).get("image_size", 64))
    extra_metadata = {
        key: value
        for key, value in model.source_metadata.items()
        if key not in ("checkpoint_format", "transformer", "scheduler")
    }
    extra_config = {
        "_class_name": MODEL_CLASS,
        "scaling_factor": 1.0,
        **dict(model.source_metadata.get("transformer") or {}),
    }
    extra_config = {key: value for key, value in extra_config.items() if key not in ("dtype", "torch_dtype")}
    return {
        **extra_config,
        **sizes.to_diffusers(published_config),
        "sample_size": image_size // DOWNSAMPLE_FACTOR,
        **({METADATA_KEY: extra_metadata} if extra_metadata else {}),
    }


def _external_folders(recipe: Mapping[str, Any]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Folders to copy by their names in this layout, and what is not on this machine."""
    caption: Mapping[str, Any] = next(iter(recipe.get("conditioners") or ()), {})
    text_source = caption.get("source")
    sources = {
        "vae": ("autoencoder.source", dict(recipe["autoencoder"]).get("source")),
        "text_encoder": ("conditioners.0.source", text_source),
        "tokenizer": ("conditioners.0.tokenizer", caption.get("tokenizer") or text_source),
    }
    folders = {name: Path(source) for name, (_, source) in sources.items() if source and Path(source).is_dir()}
    notes = tuple(
        f"{name} is left out, for {source or 'it'} is no folder here; take it along with --set {key}=FOLDER"
        for name, (key, source) in sources.items()
        if name not in folders
    )
    return folders, notes


def _model_index(folders: Mapping[str, Path], scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    components = {
        TRANSFORMER_DIR: ["diffusers", MODEL_CLASS],
        "scheduler": ["diffusers", scheduler_config["_class_name"]],
    }
    if "vae" in folders:
        components["vae"] = ["diffusers", "AutoencoderKL"]
    if "text_encoder" in folders:
        architectures = _read_settings(folders["text_encoder"] / "config.json", required=False).get(
            "architectures"
        ) or ["GemmaModel"]
        components["text_encoder"] = ["transformers", str(architectures[0])]
    if "tokenizer" in folders:
        tokenizer_class = _read_settings(folders["tokenizer"] / "tokenizer_config.json", required=False).get(
            "tokenizer_class"
        )
        components["tokenizer"] = ["transformers", str(tokenizer_class or "GemmaTokenizer")]
    return {"_class_name": PIPELINE_CLASSES[0], **components}


def _check_class(path: Path, settings: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    class_name = settings.get("_class_name")
    if expected and class_name not in expected:
        raise CheckpointError(
            f"{path} is of another family, {class_name or 'which it does not say'}; wanted {expected[0]}"
        )


def _read_settings(path: Path, required: bool = True) -> dict[str, Any]:
    """A file of settings; empty where it is not there and need not be."""
    if not path.is_file() and not required:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no keys and values")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as settings ({error}); fetch it again") from error
    return content
