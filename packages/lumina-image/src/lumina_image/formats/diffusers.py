"""Checkpoint format of diffusers' Lumina-Next: a pipeline folder, or the folder of its transformer alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.checkpoint.lazy_tensors import (
    ExportPlan,
    LoadedCheckpoint,
    Weights,
    prefix_note,
    strip_wrappers,
)
from lumina_core.checkpoint.safetensors_io import has_weights, open_safetensors, open_shards, open_weights
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError
from lumina_core.protocols import CheckpointFormat
from lumina_image.formats.next_dit import (
    PAD_TOKEN,
    DiffusersNextDiTAdapter,
    PublishedConfig,
    diffusers_names,
    pad_token,
)
from lumina_image.formats.recipes import DOWNSAMPLE_FACTOR, make_recipe, network_weights, published_config

FORMAT_NAME = "image.diffusers"
TRANSFORMER_DIR, WEIGHTS_STEM, INDEX_FILE = "transformer", "diffusion_pytorch_model", "model_index.json"
SCHEDULER_FILE = "scheduler/scheduler_config.json"
MODEL_CLASS = "LuminaNextDiT2DModel"
PIPELINE_CLASSES = ("LuminaPipeline", "LuminaText2ImgPipeline")
"""Class of a pipeline folder: its present name and the one before."""
METADATA_KEY = "_lumina"
"""Key of config.json for metadata without a place in diffusers, which ignores names with a leading underscore."""
DEFAULT_SCHEDULER_CONFIG = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
}
ADAPTER = DiffusersNextDiTAdapter()


class DiffusersFormat(CheckpointFormat):
    """Folders of LuminaPipeline, and of a LuminaNextDiT2DModel alone."""

    def matches(self, folder: Path) -> bool:
        """Return whether the folder has a config of diffusers."""
        return (folder / INDEX_FILE).is_file() or "_class_name" in _read_json(folder / "config.json", required=False)

    def load(self, folder: Path) -> LoadedCheckpoint:
        """Open the model in a folder; the recipe refers to the subfolders of VAE and text encoder.

        Raises:
            CheckpointError: the model is of another class, shards are missing, or the tensors do not match the config.
        """
        index = _read_json(folder / INDEX_FILE, required=False)
        if index:
            _check_class(folder / INDEX_FILE, index, PIPELINE_CLASSES)
        model_dir = folder / TRANSFORMER_DIR if index else folder
        settings = _read_json(model_dir / "config.json")
        _check_class(model_dir / "config.json", settings, (MODEL_CLASS,))
        config = ADAPTER.config_from(settings, str(model_dir / "config.json"))
        foreign, prefix = strip_wrappers(_open_weights(model_dir))
        weights = ADAPTER.from_foreign(foreign, config, str(model_dir))
        extra_tensors = {PAD_TOKEN: weights.pop(PAD_TOKEN)} if PAD_TOKEN in weights else {}
        scheduler = _read_json(folder / SCHEDULER_FILE, required=False) if index else {}
        native_keys = {*ADAPTER.config_to(config), METADATA_KEY}
        source_metadata = {
            **dict(settings.get(METADATA_KEY) or {}),
            "checkpoint_format": FORMAT_NAME,
            "transformer": {key: value for key, value in settings.items() if key not in native_keys},
            "scheduler": scheduler,
        }
        dtype = settings.get("dtype") or settings.get("torch_dtype")
        return LoadedCheckpoint(
            _recipe(config, int(settings.get("sample_size") or 128), scheduler, folder if index else None),
            weights,
            extra_tensors,
            source_metadata,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            notes=prefix_note(prefix),
        )

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """Plan a pipeline folder; local folders of VAE and text encoder are copied, others are named in a note.

        Raises:
            CheckpointError: the model has a component or an option that no published model has.
        """
        config = published_config(model, FORMAT_NAME)
        if config.imagenet:
            raise CheckpointError(
                f"{FORMAT_NAME}: got a class-conditional model, expected a text-to-image model. "
                "Convert to image.alpha_vllm."
            )
        pad = pad_token(model.extra_tensors, config, model.weights["backbone.embed.weight"].dtype)
        weights = ADAPTER.to_foreign({**pad, **network_weights(model, FORMAT_NAME)}, config)
        folders, notes = _external_folders(model.recipe)
        scheduler = dict(model.source_metadata.get("scheduler") or DEFAULT_SCHEDULER_CONFIG)
        contents = {
            f"{TRANSFORMER_DIR}/config.json": _transformer_config(model, config),
            SCHEDULER_FILE: scheduler,
            INDEX_FILE: _pipeline_index(folders, scheduler),
        }
        files = {
            name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode() for name, content in contents.items()
        }
        return ExportPlan({f"{TRANSFORMER_DIR}/{WEIGHTS_STEM}": weights}, files, folders, notes=notes)

    def lora_names(self, name: str) -> tuple[str, ...]:
        """Return the names of a tensor in LuminaNextDiT2DModel: two for the query."""
        return diffusers_names(name)


def _recipe(
    config: PublishedConfig, latent_size: int, scheduler: Mapping[str, Any], pipeline_dir: Path | None
) -> dict[str, Any]:
    """Make a recipe with the defaults of LuminaPipeline: 30 Euler steps, positions always interpolated."""
    sources: dict[str, str] = {}
    padding_side = "right"
    if pipeline_dir is not None:
        names = ("vae", "text_encoder", "tokenizer")
        sources = {name: str(pipeline_dir / name) for name in names if (pipeline_dir / name).is_dir()}
    if "tokenizer" in sources:  # without a setting, the tokenizer of Gemma pads on the left
        tokenizer = _read_json(Path(sources["tokenizer"]) / "tokenizer_config.json", required=False)
        padding_side = tokenizer.get("padding_side", "left")
    image_size = latent_size * DOWNSAMPLE_FACTOR
    num_tokens = (image_size // 16) ** 2
    schedule = {key: scheduler[key] for key in ("shift", "num_train_timesteps") if key in scheduler}
    sampling = {
        "steps": 30,
        "solver": "core.euler",
        "schedule": {"type": "core.diffusers_schedule", **schedule},
        "rope_scaling": {"type": "core.interpolation", "isotropic": True, "scale_down": True},
        "base_sequence_length": num_tokens if num_tokens > 1 else None,
    }
    return make_recipe(config, image_size, sources, sampling, padding_side)


def _open_weights(model_dir: Path) -> Weights:
    """Open plain weights before those of a variant (`fp16`), one file before shards, and a pickle last."""
    if has_weights(model_dir, WEIGHTS_STEM):
        return open_weights(model_dir, WEIGHTS_STEM)
    for index in sorted(model_dir.glob(f"{WEIGHTS_STEM}.safetensors.index.*.json")):
        return open_shards(index)
    for file in sorted(model_dir.glob(f"{WEIGHTS_STEM}.*.safetensors")):
        if "-of-" not in file.name:
            return open_safetensors(file)
    pickle = model_dir / f"{WEIGHTS_STEM}.bin"
    return open_torch_pickle(pickle) if pickle.is_file() else open_weights(model_dir, WEIGHTS_STEM)


def _transformer_config(model: LoadedCheckpoint, config: PublishedConfig) -> dict[str, Any]:
    stored = dict(model.source_metadata.get("transformer") or {})
    metadata = {
        key: value
        for key, value in model.source_metadata.items()
        if key not in ("checkpoint_format", "transformer", "scheduler")
    }
    image_size = int(dict(model.recipe["task"]).get("image_size", 64))
    return {
        "_class_name": MODEL_CLASS,
        "scaling_factor": 1.0,
        **{key: value for key, value in stored.items() if key not in ("dtype", "torch_dtype")},
        **ADAPTER.config_to(config),
        "sample_size": image_size // DOWNSAMPLE_FACTOR,
        **({METADATA_KEY: metadata} if metadata else {}),
    }


def _external_folders(recipe: Mapping[str, Any]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the local folders to copy by their names in this format, and a note for each other component."""
    caption: Mapping[str, Any] = next(iter(recipe.get("conditioners") or ()), {})
    text_encoder = caption.get("source")
    sources = {
        "vae": ("autoencoder.source", dict(recipe["autoencoder"]).get("source")),
        "text_encoder": ("conditioners.0.source", text_encoder),
        "tokenizer": ("conditioners.0.tokenizer", caption.get("tokenizer") or text_encoder),
    }
    folders = {name: Path(source) for name, (_, source) in sources.items() if source and Path(source).is_dir()}
    notes = tuple(
        f"{name} is not copied: {key} is {source}, not a local folder. Set {key} to a folder to include it."
        for name, (key, source) in sources.items()
        if name not in folders
    )
    return folders, notes


def _pipeline_index(folders: Mapping[str, Path], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    components = {
        TRANSFORMER_DIR: ["diffusers", MODEL_CLASS],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    if "vae" in folders:
        components["vae"] = ["diffusers", "AutoencoderKL"]
    if "text_encoder" in folders:
        config = _read_json(folders["text_encoder"] / "config.json", required=False)
        components["text_encoder"] = ["transformers", str((config.get("architectures") or ["GemmaModel"])[0])]
    if "tokenizer" in folders:
        config = _read_json(folders["tokenizer"] / "tokenizer_config.json", required=False)
        components["tokenizer"] = ["transformers", str(config.get("tokenizer_class") or "GemmaTokenizer")]
    return {"_class_name": PIPELINE_CLASSES[0], **components}


def _check_class(path: Path, settings: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    if settings.get("_class_name") not in expected:
        raise CheckpointError(
            f"{path}: got _class_name {settings.get('_class_name')}, expected {expected[0]}. Get a Lumina-Next model."
        )


def _read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """Read a JSON file; return {} for a missing file that is not required."""
    if not path.is_file() and not required:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: got no readable JSON mapping ({error}). Get the file again.") from error
    return content
