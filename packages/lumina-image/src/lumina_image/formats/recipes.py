"""Recipes for published models: which of our parts give the numbers that their own code gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint, Weights
from lumina_core.errors import CheckpointError
from lumina_image.formats.config_mapping import PublishedConfig, from_options, to_options

TEXT_ENCODER_SOURCE, VAE_SOURCE = "google/gemma-2b", "stabilityai/sdxl-vae"
"""What the released models were trained with, by their names on the hub."""
DOWNSAMPLE_FACTOR = 8
"""Pixels that a pixel of a latent stands for, in every published model."""


def text_to_image_recipe(
    config: PublishedConfig, image_size: int, sources: Mapping[str, str], sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """A text-to-image model.

    Args:
        side: pixels of a side that it was trained at.
        outside: folders or hub names of `vae`, `text_encoder` and `tokenizer`, and the side of `padding`; what is left
            out is as released.
    """
    source = sources.get("text_encoder", TEXT_ENCODER_SOURCE)
    caption = {
        "field": "caption", "type": "core.transformers", "source": source,
        "tokenizer": sources.get("tokenizer", source), "padding_side": sources.get("padding", "right"),
        "hidden_state_index": -2, "max_length": 256, "pad_to_multiple_of": 8, "hidden_size": config.cap_feat_dim,
    }  # fmt: skip
    return {
        "task": {"type": "image.text_to_image", "image_size": image_size, "emoji_to_text": False},
        "autoencoder": _vae_options(config, sources.get("vae"), VAE_SOURCE),
        "conditioners": [caption],
        **_network_options(config),
        "sampling": {"guidance_scale": 4.0, "guidance_channels": 3, **sampling},
    }


def class_to_image_recipe(config: PublishedConfig, image_size: int, sources: Mapping[str, str]) -> dict[str, Any]:
    """A model of the ImageNet classes."""
    label = {
        "field": "label",
        "type": "core.class_label",
        "num_classes": config.num_classes,
        "hidden_size": min(config.dim, 1024),
    }
    return {
        "task": {"type": "image.class_to_image", "image_size": image_size},
        "autoencoder": _vae_options(config, sources.get("vae"), "stabilityai/sd-vae-ft-ema"),
        "conditioners": [label],
        **_network_options(config),
        "sampling": {"steps": 30, "guidance_scale": 4.0, "guidance_channels": 3},
    }


def _vae_options(config: PublishedConfig, override: str | None, default: str) -> dict[str, Any]:
    """The autoencoder; one that is not here need not be looked into before it is used."""
    source = override or default
    sizes = (
        {} if Path(source).is_dir() else {"latent_channels": config.in_channels, "downsample_factor": DOWNSAMPLE_FACTOR}
    )
    return {"type": "image.kl", "source": source, **sizes}


def _network_options(config: PublishedConfig) -> dict[str, Any]:
    component_options = to_options(config)
    return {
        "tokenizer": {"type": "image.patchify", "patch_size": config.patch_size},
        "backbone": {"type": "core.next_dit", **component_options["backbone"]},
        "head": {"type": "core.velocity", **component_options["head"]},
        "objective": {"type": "core.flow_matching"},
    }


def to_published_config(checkpoint: LoadedCheckpoint, where: str) -> PublishedConfig:
    """The published arguments of a model of ours.

    Raises:
        CheckpointError: it has parts, or options, that no published model has; `where` is the layout that is written.
    """
    recipe, weights = checkpoint.recipe, checkpoint.weights
    backbone, head, tokenizer = (
        dict(recipe.get(component_type) or {}) for component_type in ("backbone", "head", "tokenizer")
    )
    expected_components = {"backbone": "core.next_dit", "head": "core.velocity", "tokenizer": "image.patchify"}
    for component_type, options in (("backbone", backbone), ("head", head), ("tokenizer", tokenizer)):
        if options.get("type") != expected_components[component_type]:
            raise CheckpointError(
                f"{where} holds models with {expected_components[component_type]}; the {component_type} of this one is {options.get('use')}"
            )
    _check_objective(dict(recipe["objective"]), where)
    patch_size = int(tokenizer.get("patch_size", 2))
    token_dim, context_norm = (
        weights["backbone.embed.weight"].shape[1],
        weights.get("backbone.blocks.0.context_norm.weight"),
    )
    backbone_options = {key: value for key, value in backbone.items() if key != "type"}
    label_key = label_table_key(checkpoint)
    return from_options(
        backbone_options, head, (patch_size, token_dim // patch_size**2), context_norm.shape[0] if context_norm else 0,
        weights[label_key].shape[0] - 1 if label_key else 0,
    )  # fmt: skip


def network_weights(checkpoint: LoadedCheckpoint, where: str) -> Weights:
    """The weights that a published layout has a place for, a table of labels under the name that it is mapped by.

    Raises:
        CheckpointError: others are among them; they are named by part.
    """
    label_key = label_table_key(checkpoint)
    renamed_keys = {
        name: "conditioners.label.table.weight" if name == label_key else name for name in checkpoint.weights
    }
    unsupported: dict[str, int] = {}
    for name in checkpoint.weights:
        if name != label_key and not name.startswith(("backbone.", "head.")):
            component = ".".join(name.split(".")[: 2 if name.startswith("conditioners.") else 1])
            unsupported[component] = unsupported.get(component, 0) + 1
    if unsupported:
        unsupported_text = ", ".join(f"{component} ({count} tensors)" for component, count in unsupported.items())
        raise CheckpointError(
            f"{where} has no place for {unsupported_text}; it holds models whose other parts are published ones"
        )
    return {renamed_keys[name]: tensor for name, tensor in checkpoint.weights.items()}


def label_table_key(checkpoint: LoadedCheckpoint) -> str | None:
    """The name of the weight that is a table of labels, where there is one."""
    for component in checkpoint.recipe.get("conditioners") or ():
        if component["type"] == "core.class_label":
            return f"conditioners.{component['field']}.table.weight"
    return None


def _check_objective(objective: Mapping[str, Any], where: str) -> None:
    path = dict(objective.get("path") or {"type": "core.linear"})
    if (objective.get("type"), objective.get("prediction", "velocity"), path.get("type")) != (
        "core.flow_matching", "velocity", "core.linear",
    ):  # fmt: skip
        raise CheckpointError(
            f"{where} holds models that answer a velocity on the linear path; this one was taught something else "
            f"({objective.get('use')}, {objective.get('prediction', 'velocity')}, {path.get('use')})"
        )
