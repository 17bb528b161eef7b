"""Model folders, ours and those of other layouts: recognised, opened without reading their weights, and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.parts import Layout
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import SCHEMA, Recipe, read_recipe, with_places
from lumina_core.weights.pieces import Draft, Weights, size
from lumina_core.weights.tensorfiles import SHARD, open_weights, stored_here, write_weights

CONFIG, WEIGHTS, AVERAGED = "config.json", "model.safetensors", "ema.safetensors"
KEPT = "origin"
"""Stem of the file with tensors that have no place in a model of ours and wait for the way back."""
MAX_CONFIG_BYTES = 1 << 20
_PICKLES = {".pth", ".pt", ".bin", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class Opened:
    """A model folder before anything is built or read.

    Attributes:
        folder: where it lies.
        plugins: distributions and versions that it was made with.
        layout: the name of its layout; empty for ours.
        dtype: what its settings say of the weights' format, where they say something.
        kept, origin, notes: see `Unbuilt`.
    """

    folder: Path
    recipe: Recipe
    weights: Weights
    plugins: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    dtype: str | None = None
    kept: Weights = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_folder(folder: Path, registry: Registry) -> Opened:
    """A model folder (or a run's: its newest checkpoint) of ours or of another layout, averaged weights first.

    Raises:
        CheckpointError: nobody knows it, it is damaged, or of a family of models that its layout does not read.
        PluginError: a layout cannot be imported.
    """
    name = layout_of(folder, registry)
    if name is not None:
        model = layout(registry, name).open(folder)
        recipe = read_recipe(dict(model.recipe), str(folder))
        return Opened(folder, recipe, model.weights, {}, name, model.dtype, model.kept, model.origin, model.notes)
    folder = model_folder(folder)
    recipe, plugins = read_config(folder)
    said = _content(folder / CONFIG)
    kept = open_weights(folder, KEPT) if stored_here(folder, KEPT) else {}
    return Opened(folder, recipe, _weights(folder), plugins, "", said.get("dtype"), kept, said.get("origin", {}))


def layout_of(folder: Path, registry: Registry) -> str | None:
    """The name of the layout that a folder is of; None for a folder of ours and for what nobody knows."""
    if not folder.is_dir() or _is_ours(folder):
        return None
    return next((name for name in registry.entries("layout") if layout(registry, name).knows(folder)), None)


def layout(registry: Registry, name: str) -> Layout:
    """The layout called so.

    Raises:
        PluginError: there is none; the nearest is offered.
    """
    made: Layout = registry.find("layout", name)()
    return made


def model_folder(folder: Path) -> Path:
    """Where in a folder of ours the model lies: here, or in the newest whole checkpoint of a run.

    Raises:
        CheckpointError: nowhere in it.
    """
    if (folder / CONFIG).is_file():
        return folder
    runs = sorted((folder / "checkpoints").glob("step-*"))
    if runs:
        return runs[-1]
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}; see what there is with: lumina models")
    raise CheckpointError(
        f"{folder} holds no {CONFIG}: it is no model folder, or one that was never finished, "
        "and it is of no published layout that an installed plugin reads"
    )


def read_config(folder: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe and the plugins of a model folder of ours; places in it are resolved against the folder."""
    path = folder / CONFIG
    content = _content(path)
    try:
        recipe, plugins = dict(content["recipe"]), dict(content.get("plugins", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    try:
        return read_recipe(with_places(recipe, lambda place: _resolved(folder, place)), str(path)), plugins
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def format_of(weights: Weights) -> torch.dtype:
    """The floating format that most bytes of the weights are stored in; float32 where none is."""
    bytes_of: dict[torch.dtype, int] = {torch.float32: 0}
    for piece in weights.values():
        if piece.dtype.is_floating_point:
            bytes_of[piece.dtype] = bytes_of.get(piece.dtype, 0) + size(piece)
    return max(bytes_of, key=lambda dtype: bytes_of[dtype])


def check_format(opened: Opened) -> None:
    """Raise CheckpointError where the settings speak of another format than the weights are stored in."""
    found = str(format_of(opened.weights)).removeprefix("torch.")
    if opened.dtype is not None and opened.dtype != found:
        raise CheckpointError(
            f"{opened.folder / CONFIG} asks for {opened.dtype} weights, and those beside it are {found}; "
            f"fetch those that belong to it, or say which format you want: --dtype {found}"
        )


def write_draft(draft: Draft, folder: Path, most: int = SHARD, told: Callable[[int], None] | None = None) -> None:
    """Fill a folder with what a draft says; weights go one tensor at a time.

    Args:
        most: bytes of a file of weights, above which it is cut into shards.
        told: called with the number of bytes after each tensor.
    """
    for name, source in draft.folders.items():
        shutil.copytree(source, folder / name)
    for name, content in draft.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, weights in draft.weights.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_weights(folder / name, weights, None if draft.whole else most, told)


def without_weights(path: Path) -> str:
    """Why a folder has no weights under this name, in words."""
    pickles = [file.name for file in path.parent.glob("*") if file.suffix in _PICKLES]
    if pickles:
        return (
            f"{path.parent} has {pickles[0]} but no {path.name}; pickled weights are never loaded, convert them first"
        )
    return f"{path.parent} has no {path.name}; the folder is half-written or not a model"


def _weights(folder: Path) -> Weights:
    stem = Path(AVERAGED if stored_here(folder, Path(AVERAGED).stem) else WEIGHTS).stem
    if not stored_here(folder, stem):
        raise CheckpointError(without_weights(folder / WEIGHTS))
    return open_weights(folder, stem)


def _is_ours(folder: Path) -> bool:
    """Whether the settings are ours, or say nothing: then it is taken for a damaged folder of ours."""
    path = folder / CONFIG
    if not path.is_file():
        return (folder / "checkpoints").is_dir()
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or "lumina" in content or not (_STRANGE & content.keys())


_STRANGE = {"_class_name", "model_type", "architectures"}
"""Keys by which the settings of others say what they are."""


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; it is no model's settings")
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["lumina"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        strange = sorted(_STRANGE & content.keys()) if isinstance(error, KeyError) else []
        if strange:
            raise CheckpointError(
                f"{path} is of another family ({strange[0]}: {content[strange[0]]}); it is no model of ours, "
                "nor of a published layout that an installed plugin reads"
            ) from error
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(
            f"{path} is of schema {schema}; this lumina-core reads up to {SCHEMA}. "
            "Install a newer one: pip install -U lumina-core"
        )
    return dict(content)


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as a model's settings ({reason}); fetch or save the model again")


def _resolved(folder: Path, place: str) -> str:
    """A place beside config.json as a whole path; names on a hub and whole paths as they are."""
    if place.startswith(("./", "../")) or (place and not Path(place).is_absolute() and (folder / place).exists()):
        return str((folder / place).resolve())
    return place
