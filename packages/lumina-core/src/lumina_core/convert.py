"""A model folder in one layout -> a folder in another, tensor by tensor: planned first, then written whole or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint, cast_weights, num_bytes
from lumina_core.checkpoint.safetensors_io import MAX_SHARD_BYTES
from lumina_core.config import apply_override
from lumina_core.errors import ConfigError, suggest
from lumina_core.model_dir import (
    CONFIG_FILE,
    EXTRA_STEM,
    WEIGHTS_FILE,
    LoadedDir,
    atomic_model_dir,
    check_dtype,
    config_bytes,
    dominant_dtype,
    find_format,
    open_model_dir,
    with_hashes,
    write_export,
)
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import map_paths, read_recipe

NATIVE_FORMAT = "lumina"
"""What this project's own layout is called."""


@dataclass(frozen=True)
class ConvertOptions:
    """How a folder is to be converted.

    Attributes:
        to: name of the layout to write; None: ours for a folder of another layout.
        dtype: floating weights are stored in it; None keeps theirs.
        settings: changes of the recipe, `a.b=c`, for example where something outside lies.
        copy: take what lies outside (text encoder, autoencoder) along instead of naming its place.
    """

    format: str | None = None
    dtype: torch.dtype | None = None
    overrides: Sequence[str] = ()
    bundle: bool = False


@dataclass(frozen=True)
class ConvertPlan:
    """What a conversion would write. `source` and `target` are names of layouts."""

    source_format: str
    target_format: str
    export_plan: ExportPlan

    @property
    def num_tensors(self) -> int:
        """Number of tensors to write."""
        return sum(len(weights) for weights in self.export_plan.weights.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of weights to write."""
        return sum(num_bytes(piece) for weights in self.export_plan.weights.values() for piece in weights.values())


def plan_conversion(source: Path, registry: Registry, options: ConvertOptions = ConvertOptions()) -> ConvertPlan:
    """Look at a folder and say what would be written; reads no weights.

    Raises:
        CheckpointError: the folder is damaged or of another family, or the target has no place for something of it.
        ConfigError: the folder is ours and no layout is named, or a setting does not fit.
        PluginError: no layout is called so.
    """
    loaded = open_model_dir(source, registry)
    if options.dtype is None:
        check_dtype(loaded)
    target_format = _target_format(loaded, registry, options.format)
    values = loaded.recipe.model_dump(mode="json", exclude_defaults=True)
    for override in options.overrides:
        values = apply_override(values, override)
    recipe = read_recipe(values, f"{source} with --set").model_dump(mode="json", exclude_defaults=True)
    checkpoint = LoadedCheckpoint(
        recipe,
        cast_weights(loaded.weights, options.dtype),
        cast_weights(loaded.extra_tensors, options.dtype),
        loaded.source_metadata,
    )
    export_plan = (
        _native_export(checkpoint, registry, options)
        if target_format == NATIVE_FORMAT
        else find_format(registry, target_format).export(checkpoint)
    )
    return ConvertPlan(
        loaded.format or NATIVE_FORMAT, target_format, replace(export_plan, notes=(*loaded.notes, *export_plan.notes))
    )


def execute(
    plan: ConvertPlan,
    destination: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
) -> None:
    """Write what was planned, whole or not at all.

    Args:
        most: bytes of a file of weights at most, where the layout knows shards.
        told: called with the number of bytes after each tensor.

    Raises:
        CheckpointError: it cannot be written, or the source turns out damaged; nothing is left behind.
    """
    with atomic_model_dir(destination) as partial_dir:
        write_export(plan.export_plan, partial_dir, max_shard_bytes, on_bytes_written)


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raise ConfigError where writing would destroy something that nobody said to destroy."""
    source_path, destination_path = source.resolve(), destination.resolve()
    if (
        source_path == destination_path
        or source_path in destination_path.parents
        or destination_path in source_path.parents
    ):
        raise ConfigError(f"{destination} lies in {source}, or around it; choose a folder of its own")
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() and not overwrite:
        raise ConfigError(f"{destination} is there already; choose another, or say --overwrite to replace it")


def _target_format(loaded: LoadedDir, registry: Registry, requested: str | None) -> str:
    formats = [NATIVE_FORMAT, *registry.registrations("checkpoint_format")]
    if requested is None:
        if loaded.format:
            return NATIVE_FORMAT
        raise ConfigError(f"{loaded.folder} is a folder of ours; say into what with --format: {', '.join(formats[1:])}")
    matches = [name for name in formats if name.rpartition(".")[2] == requested]
    if requested not in formats and len(matches) != 1:
        raise ConfigError(
            f"no layout is called '{requested}'{suggest(requested, formats) or '; known: ' + ', '.join(formats)}"
        )
    return requested if requested in formats else matches[0]


def _native_export(checkpoint: LoadedCheckpoint, registry: Registry, options: ConvertOptions) -> ExportPlan:
    folders: dict[str, Path] = {}
    external: list[str] = []

    def bundle_path(path: str) -> str:
        if not Path(path).is_dir():
            return path
        if not options.bundle:
            external.append(path)
            return path
        name = next(
            (name for name, folder in folders.items() if folder == Path(path)), _unused_name(Path(path).name, folders)
        )
        folders[name] = Path(path)
        return f"./{name}"

    values = with_hashes(read_recipe(dict(checkpoint.recipe), "the recipe"), registry).model_dump(
        mode="json", exclude_defaults=True
    )
    recipe = read_recipe(map_paths(values, bundle_path), "the recipe")
    dtype = str(dominant_dtype(checkpoint.weights)).removeprefix("torch.")
    files = {CONFIG_FILE: config_bytes(recipe, registry, dtype=dtype, source_metadata=dict(checkpoint.source_metadata))}
    weights = {
        Path(WEIGHTS_FILE).stem: checkpoint.weights,
        **({EXTRA_STEM: checkpoint.extra_tensors} if checkpoint.extra_tensors else {}),
    }
    notes = tuple(f"what is in {path} stays there; --bundle takes it along" for path in dict.fromkeys(external))
    return ExportPlan(weights, files, folders, notes=notes)


def _unused_name(name: str, used: Mapping[str, Any]) -> str:
    number = 2
    candidate = name
    while candidate in used:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
