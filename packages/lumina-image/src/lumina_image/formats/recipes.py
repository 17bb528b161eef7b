"""Recipes of published image models, and the published config of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint, Weights
from lumina_core.checkpoint.state_dict_adapter import check_supported
from lumina_core.errors import CheckpointError
from lumina_image.formats.next_dit import LABEL_TABLE, PublishedConfig, config_from_native

TEXT_ENCODER_SOURCE, VAE_SOURCE = "google/gemma-2b", "stabilityai/sdxl-vae"
"""Text encoder and autoencoder of the released text-to-image models, by their names on the hub."""
DOWNSAMPLE_FACTOR = 8
"""Pixels per pixel of the latent, along each axis, in every published model."""
_COMPONENTS = {"backbone": "core.next_dit", "head": "core.velocity", "tokenizer": "image.patchify"}


def make_recipe(
    config: PublishedConfig,
    image_size: int,
    sources: Mapping[str, str],
    sampling: Mapping[str, Any],
    padding_side: str = "right",
) -> dict[str, Any]:
    """Make the recipe of a published model: text-to-image, or class-to-image for an ImageNet model.

    Args:
        config: config of the network.
        image_size: side of the training images in pixels.
        sources: folders or hub names of `vae`, `text_encoder` and `tokenizer`; missing ones are the released ones.
        sampling: sampling options.
        padding_side: side on which the tokenizer pads texts.
    """
    if config.imagenet:
        task: dict[str, Any] = {"type": "image.class_to_image"}
        conditioner = {
            "field": "label",
            "type": "core.class_label",
            "num_classes": config.num_classes,
            "hidden_size": config.modulation_dim,
        }
    else:
        task = {"type": "image.text_to_image", "emoji_to_text": False}
        text_encoder = sources.get("text_encoder", TEXT_ENCODER_SOURCE)
        conditioner = {
            "field": "caption",
            "type": "core.transformers",
            "source": text_encoder,
            "tokenizer": sources.get("tokenizer", text_encoder),
            "padding_side": padding_side,
            "hidden_state_index": -2,
            "max_length": 256,
            "pad_to_multiple_of": 8,
            "hidden_size": config.cap_feat_dim,
        }
    vae = sources.get("vae", "stabilityai/sd-vae-ft-ema" if config.imagenet else VAE_SOURCE)
    autoencoder: dict[str, Any] = {"type": "image.kl", "source": vae}
    if not Path(vae).is_dir():  # a VAE on the hub is not downloaded before its first use
        autoencoder |= {"latent_channels": config.in_channels, "downsample_factor": DOWNSAMPLE_FACTOR}
    options = config.native_options()
    return {
        "task": {**task, "image_size": image_size},
        "autoencoder": autoencoder,
        "tokenizer": {"type": _COMPONENTS["tokenizer"], "patch_size": config.patch_size},
        "conditioners": [conditioner],
        "backbone": {"type": _COMPONENTS["backbone"], **options["backbone"]},
        "head": {"type": _COMPONENTS["head"], **options["head"]},
        "objective": {"type": "core.flow_matching"},
        "sampling": {"guidance_scale": 4.0, "guidance_channels": 3, **sampling},
    }


def published_config(model: LoadedCheckpoint, format_name: str) -> PublishedConfig:
    """Return the published config of a native model.

    Args:
        model: the native model.
        format_name: checkpoint format that is written, for messages.

    Raises:
        CheckpointError: the model has a component or an option that no published model has.
    """
    options = {name: dict(model.recipe.get(name) or {}) for name in (*_COMPONENTS, "objective")}
    objective = options["objective"]
    path = dict(objective.get("path") or {"type": "core.linear"})
    actual = {name: options[name].pop("type", None) for name in (*_COMPONENTS, "objective")}
    actual |= {"objective.path": path["type"], "objective.prediction": objective.get("prediction", "velocity")}
    expected = {
        **_COMPONENTS,
        "objective": "core.flow_matching",
        "objective.path": "core.linear",
        "objective.prediction": "velocity",
    }
    check_supported(actual, expected, format_name)
    weights, label_table = model.weights, _label_table(model)
    patch_size = int(options["tokenizer"].get("patch_size", 2))
    context_norm = weights.get("backbone.blocks.0.context_norm.weight")
    return config_from_native(
        options["backbone"],
        options["head"],
        patch_size,
        in_channels=weights["backbone.embed.weight"].shape[1] // patch_size**2,
        context_dim=context_norm.shape[0] if context_norm else 0,
        num_classes=weights[label_table].shape[0] - 1 if label_table else 0,
        format_name=format_name,
    )


def network_weights(model: LoadedCheckpoint, format_name: str) -> Weights:
    """Return the weights of the network, a label table under the name of the key map.

    Args:
        model: the native model.
        format_name: checkpoint format that is written, for messages.

    Raises:
        CheckpointError: components without a place in the format have weights; the message names them.
    """
    label_table = _label_table(model)
    weights = {LABEL_TABLE if name == label_table else name: tensor for name, tensor in model.weights.items()}
    others = Counter(
        ".".join(name.split(".")[: 2 if name.startswith("conditioners.") else 1])
        for name in weights
        if name != LABEL_TABLE and not name.startswith(("backbone.", "head."))
    )
    if others:
        listed = ", ".join(f"{component} ({count} tensors)" for component, count in others.items())
        raise CheckpointError(
            f"{format_name}: got weights of {listed}, expected those of backbone and head alone. "
            "Convert to another checkpoint format."
        )
    return weights


def _label_table(model: LoadedCheckpoint) -> str | None:
    """Return the name of the weight that embeds the classes, None for a text-to-image model."""
    for component in model.recipe.get("conditioners") or ():
        if component["type"] == "core.class_label":
            return f"conditioners.{component['field']}.table.weight"
    return None
