"""The base of a training: the model whose components, and for an adapter whose weights, a recipe takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lumina_core.adapters.lora import BaseHash, add_adapter, base_hash
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.model import Model
from lumina_core.model_dir import load_model, read_model_recipe
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import FREE_OPTIONS, MODEL_KEYS, Recipe


def use_base_model(recipe: Recipe, init: Sequence[str | Path], registry: Registry) -> tuple[Recipe, list[str]]:
    """Return the recipe of an adapter with the components of its base model, and a line per component that differs.

    Args:
        recipe: recipe with `training.adapter`.
        init: the base model, at most one; none: `base_model` of the recipe.
        registry: installed models.

    Raises:
        ConfigError: there is no base model or more than one, or it is of another task.
        CheckpointError: the base model cannot be read.
    """
    if len(init) > 1:
        raise ConfigError(f"init: got {len(init)} models, expected one: an adapter has one base.")
    name = str(init[0]) if init else recipe.base_model
    if name is None:
        raise ConfigError("init: got none, expected the model that the adapter is trained on. Name its folder.")
    base = read_model_recipe(name, registry)
    if base.task.type != recipe.task.type:
        raise ConfigError(
            f"init: got {name}, a model for {base.task.type}, expected one for {recipe.task.type}, the recipe's task."
        )
    if base.backbone is not None and recipe.backbone is not None:
        free = {key: value for key, value in recipe.backbone.options.items() if key in FREE_OPTIONS}
        base = base.model_copy(update={"backbone": base.backbone.model_copy(update=free)})
    changed = [key for key in MODEL_KEYS if key != "sampling" and getattr(base, key) != getattr(recipe, key)]
    messages = [f"{', '.join(changed)}: as in {name}, the recipe has others"] if changed else []
    values = recipe.to_dict() | {key: value for key, value in base.to_dict(False).items() if key in MODEL_KEYS}
    return Recipe.model_validate({**values, "base_model": name}), messages


def build_adapted_model(recipe: Recipe, registry: Registry) -> tuple[Model, BaseHash]:
    """Load the base model of a recipe and add a new adapter; returns the model and the hash of the base.

    Raises:
        CheckpointError: the base model cannot be read, or its weights do not fit.
        ConfigError: a target of the adapter matches no layer, or its rank is too large.
        PluginError: peft, or the library of a quantization, is not installed.
    """
    adapter = recipe.training.adapter
    assert adapter is not None and recipe.base_model is not None  # see `use_base_model`
    model = load_model(recipe.base_model, registry, recipe=recipe)
    found = base_hash(model)
    add_adapter(model, adapter)
    return model, found


def check_resumed_base(found: str, expected: str, base_model: str) -> None:
    """Raise CheckpointError if the checkpoint of an adapter has another base than the one that was opened."""
    if found and found != expected:
        raise CheckpointError(
            f"init: got {base_model} (sha256 {expected[:12]}), expected the base of the training that is resumed "
            f"(sha256 {found[:12]}). Name the same model."
        )
