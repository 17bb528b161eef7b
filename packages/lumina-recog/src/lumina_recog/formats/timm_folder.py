"""Checkpoint format of timm's `local-dir:` folders: config.json and model.safetensors, with equal names of weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.errors import CheckpointError
from lumina_core.protocols import CheckpointFormat
from lumina_recog.classifier import ARCHITECTURES, NextDiTClassifier, pooling_heads

POOLING_NAMES = {"mean": "avg", "attention": "map"}
DEFAULT_INPUT_SIZE = 224


class TimmFormat(CheckpointFormat):
    """Folders that `timm.create_model("local-dir:FOLDER")` opens after `import lumina_recog.timm`."""

    def matches(self, folder: Path) -> bool:
        """Return whether config.json names an architecture of this package."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and str(config.get("architecture", "")).startswith("nextdit_")

    def load(self, folder: Path) -> LoadedCheckpoint:
        """Open a folder of timm: the recipe is built from `model_args`.

        Raises:
            CheckpointError: config.json or the weights are missing or of another form, or the model has an argument
                that a recipe lacks.
        """
        path = folder / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            recipe = recipe_of(config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: got {type(error).__name__} {error}, expected timm's architecture, num_classes and model_args."
            ) from error
        weights_path = folder / "model.safetensors"
        if not weights_path.is_file():
            raise CheckpointError(
                f"{folder}: got no model.safetensors, expected the weights. Save them with safe_serialization=True."
            )
        return LoadedCheckpoint(recipe, open_safetensors(weights_path), source_metadata={"timm": config})

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """Plan config.json and model.safetensors of timm.

        Raises:
            CheckpointError: the model is no classifier of this package.
        """
        config = timm_config(model.recipe)
        content = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
        notes = ("timm finds the architecture after `import lumina_recog.timm`.",)
        return ExportPlan({"model": model.weights}, {"config.json": content}, single_file=True, notes=notes)


def timm_config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of timm for a recipe.

    Raises:
        CheckpointError: the recipe is of another kind of model, or has an option that the timm model lacks.
    """
    backbone, head, tokenizer = recipe.get("backbone") or {}, recipe.get("head") or {}, recipe["tokenizer"]
    found = (backbone.get("type"), head.get("type"), tokenizer.get("type"))
    if found != ("core.next_dit", "recog.classification", "recog.patchify") or backbone.get("time_conditioned", True):
        raise CheckpointError(
            f"timm: got a model of {', '.join(map(str, found))}, expected core.next_dit without time, "
            "recog.classification and recog.patchify."
        )
    encoding = backbone.get("position_encoding") or {
        "type": "core.axial_rope",
        "theta": backbone.get("rope_theta", 10000.0),
        "layout": backbone.get("rope_layout", "blocks"),
        "axes_dim": backbone.get("rope_axes_dim"),
    }
    half = backbone["hidden_size"] // backbone["num_heads"] // 2
    unsupported = [f"backbone.{key}" for key in sorted(set(backbone) - _BACKBONE_KEYS)]
    defaults = {"theta": None, "layout": None, "axes": [1, 2], "axes_dim": [0, half, half]}
    unsupported += [
        f"backbone.position_encoding {key}"
        for key, value in encoding.items()
        if key != "type" and (key not in defaults or (defaults[key] and value and list(value) != defaults[key]))
    ]
    if encoding["type"] not in ("core.mixed_rope", "core.axial_rope"):
        unsupported.append(str(encoding["type"]))
    if unsupported:
        raise CheckpointError(f"timm: got {unsupported[0]}, which the timm model has no argument for.")
    patch_size, embed_dim = tokenizer.get("patch_size", 16), backbone["hidden_size"]
    task = recipe["task"]
    size = _input_size(recipe)
    args = {
        "patch_size": patch_size, "embed_dim": embed_dim, "depth": backbone["num_layers"],
        "num_heads": backbone["num_heads"], "global_pool": POOLING_NAMES[head.get("pooling", "mean")],
        "rope": encoding["type"].removeprefix("core.").removesuffix("_rope"), "rope_theta": encoding.get("theta"),
        "rope_layout": encoding.get("layout") or "blocks",
        "multiple_of": backbone.get("multiple_of", 256), "max_tokens": tokenizer.get("max_tokens"),
        "pool_heads": head.get("num_heads", 4), "drop_rate": head.get("dropout", 0.0),
        "drop_path_rate": backbone.get("drop_path", 0.0),
    }  # fmt: skip
    names = (
        name for name, one in ARCHITECTURES.items() if (one["patch_size"], one["embed_dim"]) == (patch_size, embed_dim)
    )
    return {
        "architecture": next(names, "nextdit_base_patch16"),
        "num_classes": head["num_classes"],
        "num_features": embed_dim,
        "global_pool": args["global_pool"],
        "model_args": args,  # all of them: the architecture may have other defaults
        "pretrained_cfg": {
            "tag": "lumina", "custom_load": False, "input_size": [3, *size], "fixed_input_size": False,
            "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5], "num_classes": head["num_classes"], "pool_size": None,
            "first_conv": "backbone.embed", "classifier": "head.linear",
        },
        "label_names": list(task.get("classes", ())) or None,
        "task": task,  # of this project: temperatures
    }  # fmt: skip


_BACKBONE_KEYS = {
    "type", "hidden_size", "num_layers", "num_heads", "time_conditioned", "multiple_of", "position_encoding",
    "rope_theta", "rope_layout", "rope_axes_dim", "drop_path", "gradient_checkpointing", "attn_backend",
}  # fmt: skip


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a model from timm's config.json; arguments that it lacks are those of the architecture.

    Raises:
        CheckpointError: the model has an argument that a recipe lacks.
        KeyError: there is no such architecture.
    """
    signature = inspect.signature(NextDiTClassifier).parameters
    given = {key: value for key, value in (config.get("model_args") or {}).items() if key not in _DATA_ARGUMENTS}
    args = {name: parameter.default for name, parameter in signature.items()}
    args |= ARCHITECTURES[config["architecture"]] | given
    pooling = {timm_name: name for name, timm_name in POOLING_NAMES.items()}.get(args["global_pool"])
    for name in args:
        wrong = name not in signature or (name == "in_chans" and args[name] != 3)
        if wrong or (name == "global_pool" and pooling is None):
            raise CheckpointError(f"timm: got {name}={args[name]!r} in model_args, which a recipe has no option for.")
    encoding: dict[str, Any] = {"type": f"core.{args['rope']}_rope"}
    if args["rope_theta"] is not None:
        encoding["theta"] = args["rope_theta"]
    if args["rope"] == "axial":
        encoding["layout"] = args["rope_layout"]
    return {
        "task": config.get("task") or {"type": "recog.classify", "classes": list(config.get("label_names") or ())},
        "tokenizer": {
            "type": "recog.patchify", "patch_size": args["patch_size"], "max_tokens": args["max_tokens"],
        },
        "autoencoder": {"type": "recog.identity"},
        "backbone": {
            "type": "core.next_dit", "hidden_size": args["embed_dim"], "num_layers": args["depth"],
            "num_heads": args["num_heads"], "time_conditioned": False, "multiple_of": args["multiple_of"],
            "position_encoding": encoding, "drop_path": args["drop_path_rate"],
        },
        "head": {
            "type": "recog.classification", "num_classes": config["num_classes"], "pooling": pooling,
            "num_heads": args["pool_heads"] or pooling_heads(args["embed_dim"]), "dropout": args["drop_rate"],
        },
        "objective": {"type": "recog.classification"},
    }  # fmt: skip


_DATA_ARGUMENTS = ("num_classes", "img_size")
"""Arguments that say nothing about the weights' recipe besides `num_classes` of config.json."""


def _input_size(recipe: Mapping[str, Any]) -> tuple[int, int]:
    sizes = (recipe.get("dataset") or {}).get("image_sizes") or [(DEFAULT_INPUT_SIZE, DEFAULT_INPUT_SIZE)]
    height, width = sizes[0]
    return int(height), int(width)
