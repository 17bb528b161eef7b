"""Conversion of model folders between checkpoint formats, tensor by tensor: planned first, then written atomically."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint, cast_weights, num_bytes
from lumina_core.checkpoint.safetensors_io import MAX_SHARD_BYTES
from lumina_core.errors import CheckpointError, ConfigError, suggest
from lumina_core.locate import CONFIG_FILE, WEIGHTS_FILE
from lumina_core.model_dir import (
    EXTRA_STEM,
    LoadedDir,
    atomic_model_dir,
    check_dtype,
    check_fits,
    config_bytes,
    dominant_dtype,
    find_format,
    open_model_dir,
    pin_pretrained,
    write_export,
)
from lumina_core.plugins.registry import Registry
from lumina_core.pretrained import pretrained_files
from lumina_core.recipe import map_paths, override_recipe, read_recipe

TRAINING_DIR = "training"
"""Folder of a checkpoint with the state of its training."""
NATIVE_FORMAT = "lumina"
"""Name of this project's own checkpoint format."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion.

    Attributes:
        format: checkpoint format to write; None: this project's own, for a folder of another format.
        dtype: dtype of floating weights; None: as stored.
        overrides: changes of the recipe, `a.b=c`, for example of the path of a pretrained text encoder.
        bundle: whether pretrained folders (text encoder, autoencoder) are copied instead of named by their path.
    """

    format: str | None = None
    dtype: torch.dtype | None = None
    overrides: Sequence[str] = ()
    bundle: bool = False


@dataclass(frozen=True)
class ConvertPlan:
    """What a conversion writes: the names of both formats and the content of the folder."""

    source_format: str
    target_format: str
    export_plan: ExportPlan

    @property
    def num_tensors(self) -> int:
        """Number of tensors to write."""
        return sum(map(len, self.export_plan.weights.values()))

    @property
    def num_bytes(self) -> int:
        """Bytes of weights to write."""
        return sum(num_bytes(tensor) for weights in self.export_plan.weights.values() for tensor in weights.values())


def plan_conversion(source: Path, registry: Registry, options: ConvertOptions = ConvertOptions()) -> ConvertPlan:
    """Plan the conversion of a folder; reads no weights.

    Raises:
        CheckpointError: the folder is damaged or of another family, or the target format cannot hold something of it.
        ConfigError: the folder has this project's own format and `format` is None, or an override is invalid.
        PluginError: there is no such format.
    """
    loaded = open_model_dir(source, registry)
    if options.dtype is None:
        check_dtype(loaded)
    check_fits(loaded, registry)
    target_format = _target_format(loaded, registry, options.format)
    values = loaded.recipe.to_dict()
    for override in options.overrides:
        values = override_recipe(values, override, registry)
    recipe = read_recipe(values, f"{source} with overrides")
    if options.overrides:
        check_fits(replace(loaded, recipe=recipe), registry)
    checkpoint = LoadedCheckpoint(
        recipe.to_dict(),
        cast_weights(loaded.weights, options.dtype),
        cast_weights(loaded.extra_tensors, options.dtype),
        loaded.source_metadata,
    )
    if target_format == NATIVE_FORMAT:
        export_plan = _native_export(checkpoint, registry, options.bundle)
    else:
        export_plan = find_format(registry, target_format).export(checkpoint)
    _check_copied_folders(export_plan, source, options.overrides)
    export_plan = replace(export_plan, notes=(*loaded.notes, *export_plan.notes))
    return ConvertPlan(loaded.format or NATIVE_FORMAT, target_format, export_plan)


def _check_copied_folders(plan: ExportPlan, source: Path, overrides: Sequence[str]) -> None:
    """Raise CheckpointError if a folder to copy lies outside of the source, unless the user named it.

    The config of a downloaded model may name any folder of this machine.
    """
    named = {Path(override.partition("=")[2].strip()).resolve() for override in overrides}
    for name, folder in plan.folders.items():
        path = folder.resolve()
        if not path.is_relative_to(source.resolve()) and path not in named:
            raise CheckpointError(
                f"{source}: its config names the folder {folder}, which lies outside of it and is not copied. If you "
                f"trust it, give it as an override of the recipe: KEY={folder}."
            )
        if not pretrained_files(folder):
            raise CheckpointError(f"{folder}: got no file of pretrained weights, expected some to copy to {name}/.")


def execute(
    plan: ConvertPlan,
    destination: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
) -> None:
    """Write a planned folder, atomically.

    Args:
        max_shard_bytes: largest number of bytes of weights in one file, if the format has shards.
        on_bytes_written: called with the number of bytes after each tensor.

    Raises:
        CheckpointError: the folder cannot be written, or the source is damaged; nothing is left behind.
    """
    with atomic_model_dir(destination) as partial_dir:
        write_export(plan.export_plan, partial_dir, max_shard_bytes, on_bytes_written)


def _target_format(loaded: LoadedDir, registry: Registry, requested: str | None) -> str:
    formats = [NATIVE_FORMAT, *registry.registrations("checkpoint_format")]
    if requested is None:
        if loaded.format or (loaded.folder / TRAINING_DIR).is_dir():
            return NATIVE_FORMAT  # the model of a checkpoint is a folder of this format without the training's state
        raise ConfigError(
            f"format: got none for {loaded.folder}, which has the format {NATIVE_FORMAT}, expected one of "
            f"{', '.join(formats[1:])}."
        )
    if requested in formats:
        return requested
    matches = [name for name in formats if name.rpartition(".")[2] == requested]
    if len(matches) != 1:
        hint = suggest(requested, formats)
        raise ConfigError(f"format: got '{requested}', expected one of {', '.join(formats)}{hint}")
    return matches[0]


def _native_export(checkpoint: LoadedCheckpoint, registry: Registry, bundle: bool) -> ExportPlan:
    folders: dict[str, Path] = {}
    external: list[str] = []

    def bundle_path(path: str) -> str:
        if not Path(path).is_dir():
            return path
        if not bundle:
            external.append(path)
            return path
        name, number = Path(path).name, 1
        while folders.get(name, Path(path)) != Path(path):
            number += 1
            name = f"{Path(path).name}-{number}"
        folders[name] = Path(path)
        return f"./{name}"

    recipe = pin_pretrained(read_recipe(checkpoint.recipe, "the recipe"), registry)
    recipe = read_recipe(map_paths(recipe.to_dict(), bundle_path), "the recipe")
    dtype = str(dominant_dtype(checkpoint.weights)).removeprefix("torch.")
    config = config_bytes(recipe, registry, dtype=dtype, source_metadata=dict(checkpoint.source_metadata))
    weights = {Path(WEIGHTS_FILE).stem: checkpoint.weights}
    if checkpoint.extra_tensors:
        weights[EXTRA_STEM] = checkpoint.extra_tensors
    notes = tuple(
        f"The model still needs the folder {path}; bundle it to make a copy." for path in dict.fromkeys(external)
    )
    return ExportPlan(weights, {CONFIG_FILE: config}, folders, notes=notes)
