"""A model folder in one layout -> a folder in another, tensor by tensor: planned first, then written whole or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lumina_core.checkpoint import config_file, referenced, writing
from lumina_core.config import with_setting
from lumina_core.errors import ConfigError, near
from lumina_core.folders import CONFIG, KEPT, WEIGHTS, Opened, check_format, format_of, layout, open_folder, write_draft
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import read_recipe, with_places
from lumina_core.weights.pieces import Draft, Unbuilt, in_format, size
from lumina_core.weights.tensorfiles import SHARD

OURS = "lumina"
"""What this project's own layout is called."""


@dataclass(frozen=True)
class Wish:
    """How a folder is to be converted.

    Attributes:
        to: name of the layout to write; None: ours for a folder of another layout.
        dtype: floating weights are stored in it; None keeps theirs.
        settings: changes of the recipe, `a.b=c`, for example where something outside lies.
        copy: take what lies outside (text encoder, autoencoder) along instead of naming its place.
    """

    to: str | None = None
    dtype: torch.dtype | None = None
    settings: Sequence[str] = ()
    copy: bool = False


@dataclass(frozen=True)
class Plan:
    """What a conversion would write. `source` and `target` are names of layouts."""

    source: str
    target: str
    draft: Draft

    @property
    def tensors(self) -> int:
        """Number of tensors to write."""
        return sum(len(weights) for weights in self.draft.weights.values())

    @property
    def size(self) -> int:
        """Bytes of weights to write."""
        return sum(size(piece) for weights in self.draft.weights.values() for piece in weights.values())


def plan(source: Path, registry: Registry, wish: Wish = Wish()) -> Plan:
    """Look at a folder and say what would be written; reads no weights.

    Raises:
        CheckpointError: the folder is damaged or of another family, or the target has no place for something of it.
        ConfigError: the folder is ours and no layout is named, or a setting does not fit.
        PluginError: no layout is called so.
    """
    opened = open_folder(source, registry)
    if wish.dtype is None:
        check_format(opened)
    target = _target(opened, registry, wish.to)
    values = opened.recipe.model_dump(mode="json", exclude_defaults=True)
    for setting in wish.settings:
        values = with_setting(values, setting)
    recipe = read_recipe(values, f"{source} with --set").model_dump(mode="json", exclude_defaults=True)
    model = Unbuilt(recipe, in_format(opened.weights, wish.dtype), in_format(opened.kept, wish.dtype), opened.origin)
    draft = _ours(model, registry, wish) if target == OURS else layout(registry, target).draft(model)
    return Plan(opened.layout or OURS, target, replace(draft, notes=(*opened.notes, *draft.notes)))


def carry_out(found: Plan, destination: Path, most: int = SHARD, told: Callable[[int], None] | None = None) -> None:
    """Write what was planned, whole or not at all.

    Args:
        most: bytes of a file of weights at most, where the layout knows shards.
        told: called with the number of bytes after each tensor.

    Raises:
        CheckpointError: it cannot be written, or the source turns out damaged; nothing is left behind.
    """
    with writing(destination) as partial:
        write_draft(found.draft, partial, most, told)


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raise ConfigError where writing would destroy something that nobody said to destroy."""
    here, there = source.resolve(), destination.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ConfigError(f"{destination} lies in {source}, or around it; choose a folder of its own")
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() and not overwrite:
        raise ConfigError(f"{destination} is there already; choose another, or say --overwrite to replace it")


def _target(opened: Opened, registry: Registry, asked: str | None) -> str:
    known = [OURS, *registry.entries("layout")]
    if asked is None:
        if opened.layout:
            return OURS
        raise ConfigError(f"{opened.folder} is a folder of ours; say into what with --to: {', '.join(known[1:])}")
    short = [name for name in known if name.rpartition(".")[2] == asked]
    if asked not in known and len(short) != 1:
        raise ConfigError(f"no layout is called '{asked}'{near(asked, known) or '; known: ' + ', '.join(known)}")
    return asked if asked in known else short[0]


def _ours(model: Unbuilt, registry: Registry, wish: Wish) -> Draft:
    folders: dict[str, Path] = {}
    outside: list[str] = []

    def place(said: str) -> str:
        if not Path(said).is_dir():
            return said
        if not wish.copy:
            outside.append(said)
            return said
        name = next((name for name, folder in folders.items() if folder == Path(said)), _free(Path(said).name, folders))
        folders[name] = Path(said)
        return f"./{name}"

    values = referenced(read_recipe(dict(model.recipe), "the recipe"), registry).model_dump(
        mode="json", exclude_defaults=True
    )
    recipe = read_recipe(with_places(values, place), "the recipe")
    dtype = str(format_of(model.weights)).removeprefix("torch.")
    files = {CONFIG: config_file(recipe, registry, dtype=dtype, origin=dict(model.origin))}
    weights = {Path(WEIGHTS).stem: model.weights, **({KEPT: model.kept} if model.kept else {})}
    notes = tuple(f"what is in {said} stays there; --copy takes it along" for said in dict.fromkeys(outside))
    return Draft(weights, files, folders, notes=notes)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
