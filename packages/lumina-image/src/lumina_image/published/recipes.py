"""Recipes for published models: which of our parts give the numbers that their own code gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Unbuilt, Weights
from lumina_image.published.arguments import Arguments, from_options, options

GEMMA, VAE = "google/gemma-2b", "stabilityai/sdxl-vae"
"""What the released models were trained with, by their names on the hub."""
STRIDE = 8
"""Pixels that a pixel of a latent stands for, in every published model."""


def text_recipe(
    arguments: Arguments, side: int, outside: Mapping[str, str], sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """A text-to-image model.

    Args:
        side: pixels of a side that it was trained at.
        outside: folders or hub names of `vae`, `text_encoder` and `tokenizer`, and the side of `padding`; what is left
            out is as released.
    """
    source = outside.get("text_encoder", GEMMA)
    caption = {
        "name": "caption", "use": "core.transformers", "source": source,
        "tokenizer": outside.get("tokenizer", source), "padding": outside.get("padding", "right"),
        "layer": -2, "length": 256, "multiple_of": 8, "width": arguments.cap_feat_dim,
    }  # fmt: skip
    return {
        "task": {"use": "image.text_to_image", "side": side, "emoji": "kept"},
        "autoencoder": _vae(arguments, outside.get("vae"), VAE),
        "conditioners": [caption],
        **_network(arguments),
        "sampling": {"guidance": 4.0, "guidance_channels": 3, **sampling},
    }


def label_recipe(arguments: Arguments, side: int, outside: Mapping[str, str]) -> dict[str, Any]:
    """A model of the ImageNet classes."""
    label = {"name": "label", "use": "core.label", "classes": arguments.num_classes, "width": min(arguments.dim, 1024)}
    return {
        "task": {"use": "image.class_to_image", "side": side},
        "autoencoder": _vae(arguments, outside.get("vae"), "stabilityai/sd-vae-ft-ema"),
        "conditioners": [label],
        **_network(arguments),
        "sampling": {"steps": 30, "guidance": 4.0, "guidance_channels": 3},
    }


def _vae(arguments: Arguments, place: str | None, released: str) -> dict[str, Any]:
    """The autoencoder; one that is not here need not be looked into before it is used."""
    source = place or released
    sizes = {} if Path(source).is_dir() else {"channels": arguments.in_channels, "stride": STRIDE}
    return {"use": "image.kl", "source": source, **sizes}


def _network(arguments: Arguments) -> dict[str, Any]:
    parts = options(arguments)
    return {
        "tokenizer": {"use": "image.patches", "patch": arguments.patch_size},
        "backbone": {"use": "core.next_dit", **parts["backbone"]},
        "head": {"use": "core.velocity", **parts["head"]},
        "objective": {"use": "core.flow_matching"},
    }


def arguments_of(model: Unbuilt, where: str) -> Arguments:
    """The published arguments of a model of ours.

    Raises:
        CheckpointError: it has parts, or options, that no published model has; `where` is the layout that is written.
    """
    recipe, weights = model.recipe, model.weights
    backbone, head, tokenizer = (dict(recipe.get(kind) or {}) for kind in ("backbone", "head", "tokenizer"))
    kinds = {"backbone": "core.next_dit", "head": "core.velocity", "tokenizer": "image.patches"}
    for kind, part in (("backbone", backbone), ("head", head), ("tokenizer", tokenizer)):
        if part.get("use") != kinds[kind]:
            raise CheckpointError(
                f"{where} holds models with {kinds[kind]}; the {kind} of this one is {part.get('use')}"
            )
    _check_objective(dict(recipe["objective"]), where)
    patch = int(tokenizer.get("patch", 2))
    numbers, memory = weights["backbone.embed.weight"].shape[1], weights.get("backbone.blocks.0.memory_norm.weight")
    settings = {key: value for key, value in backbone.items() if key != "use"}
    label = label_of(model)
    return from_options(
        settings, head, (patch, numbers // patch**2), memory.shape[0] if memory else 0,
        weights[label].shape[0] - 1 if label else 0,
    )  # fmt: skip


def network_of(model: Unbuilt, where: str) -> Weights:
    """The weights that a published layout has a place for, a table of labels under the name that it is mapped by.

    Raises:
        CheckpointError: others are among them; they are named by part.
    """
    label = label_of(model)
    names = {name: "conditioners.label.table.weight" if name == label else name for name in model.weights}
    rest: dict[str, int] = {}
    for name in model.weights:
        if name != label and not name.startswith(("backbone.", "head.")):
            part = ".".join(name.split(".")[: 2 if name.startswith("conditioners.") else 1])
            rest[part] = rest.get(part, 0) + 1
    if rest:
        said = ", ".join(f"{part} ({count} tensors)" for part, count in rest.items())
        raise CheckpointError(f"{where} has no place for {said}; it holds models whose other parts are published ones")
    return {names[name]: piece for name, piece in model.weights.items()}


def label_of(model: Unbuilt) -> str | None:
    """The name of the weight that is a table of labels, where there is one."""
    for use in model.recipe.get("conditioners") or ():
        if use["use"] == "core.label":
            return f"conditioners.{use['name']}.table.weight"
    return None


def _check_objective(objective: Mapping[str, Any], where: str) -> None:
    path = dict(objective.get("path") or {"use": "core.linear"})
    if (objective.get("use"), objective.get("prediction", "velocity"), path.get("use")) != (
        "core.flow_matching", "velocity", "core.linear",
    ):  # fmt: skip
        raise CheckpointError(
            f"{where} holds models that answer a velocity on the linear path; this one was taught something else "
            f"({objective.get('use')}, {objective.get('prediction', 'velocity')}, {path.get('use')})"
        )
