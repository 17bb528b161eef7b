"""One folder for a model: config.json (recipe, schema, plugins) and model.safetensors, whole or absent. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from lumina_core.config import Use, nearest
from lumina_core.errors import CheckpointError, ConfigError, PluginError
from lumina_core.files import whole_folder
from lumina_core.folders import CONFIG, WEIGHTS, Opened, check_format, format_of, open_folder, without_weights
from lumina_core.model import Model, build, build_model
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import SCHEMA, Recipe
from lumina_core.weights.pieces import Held, Piece, in_format, read
from lumina_core.weights.tensorfiles import SHARD, open_file, write_weights
from lumina_core.weights.unfilled import unfilled

SAFE = {torch.float16: torch.float32, torch.float64: torch.float32, torch.float8_e4m3fn: torch.bfloat16,
        torch.float8_e5m2: torch.bfloat16}  # fmt: skip
"""Formats that numbers are stored in, and those that they are computed in unless another is asked for."""


def save_model(
    model: Model, registry: Registry, folder: Path, dtype: torch.dtype | None = None, most: int = SHARD
) -> None:
    """Write a model folder, whole or not at all.

    Args:
        dtype: floating weights are stored in it; None keeps theirs.
        most: bytes of a file of weights, above which it is cut into shards.
    """
    weights = in_format({name: Held(tensor) for name, tensor in model.state_dict().items()}, dtype)
    with writing(folder) as partial:
        write_config(partial, model.recipe, registry)
        write_weights(partial / Path(WEIGHTS).stem, weights, most)


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its place whole or not at all.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    try:
        with whole_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot write {folder} ({reason}); what was saved before is still whole") from error


def write_config(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """config.json: the recipe, and which distributions in which versions its parts come from."""
    (folder / CONFIG).write_bytes(config_file(recipe, registry))


def config_file(recipe: Recipe, registry: Registry, **more: Any) -> bytes:
    """The content of config.json; `more` are further keys of it, left out where they are empty."""
    recipe = referenced(recipe, registry)
    plugins: dict[str, str] = {}
    for kind, name in recipe.used():
        with suppress(PluginError):  # a model can be converted where not all of its parts are installed
            plugins |= dict([registry.owner(kind, name)])
    content = {"lumina": SCHEMA, "plugins": plugins, "recipe": recipe.model_dump(mode="json", exclude_defaults=True)}
    content |= {key: value for key, value in more.items() if value}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def referenced(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with what holds it to the folders that it borrows from: their digests, where a part can tell them."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    borrowing = [
        ("autoencoder", values["autoencoder"]),
        *(("conditioner", use) for use in values.get("conditioners", ())),
    ]
    for kind, use in chain.from_iterable(_with_inner(*part) for part in borrowing):
        if isinstance(use.get("source"), str) and Path(use["source"]).is_dir() and not use.get("sha256"):
            with suppress(
                PluginError, ConfigError, CheckpointError
            ):  # not installed, or not whole: told when it is asked
                part = build(registry, kind, Use(**use))
                use |= part.referenced() if hasattr(part, "referenced") else {}
    return Recipe.model_validate(values)


def _with_inner(kind: str, use: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A part and those that its own options name; the option's name is the kind, and it may name several."""
    yield kind, use
    for option, value in use.items():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, dict) and "use" in part:
                yield from _with_inner(option, part)


def stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: contiguous, on the CPU, floating ones in `dtype`."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if dtype is None:
        return kept
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in kept.items()}


def load_model(
    folder: Path, registry: Registry, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Model:
    """A model from its folder (or a run's: its newest checkpoint), averaged weights first, ready to be asked.

    A folder of another layout is opened as it is. Weights are read one by one; where nothing has to be changed they
    are windows on the file. Whoever overwrites that file in place changes the model.

    Args:
        dtype: of the floating weights. None: as most of them are stored, but float16, in which CPUs are slow and large
            models overflow, as float32.

    Raises:
        CheckpointError: the folder is missing, half-written, of a newer schema or of another family of models, or its
            weights do not fit its recipe.
        PluginError: a plugin that the recipe needs is not installed or broken.
    """
    opened = open_folder(folder, registry)
    if dtype is None:
        check_format(opened)
    try:
        with unfilled():
            model = build_model(opened.recipe, registry)
    except PluginError as error:
        made_with = ", ".join(f"{name} {version}" for name, version in opened.plugins.items())
        there = {source.distribution for source in registry.sources.values()}
        missing = [f"'{name}=={version}'" for name, version in opened.plugins.items() if name not in there]
        again = f"; the same again: pip install {' '.join(missing)}" if missing else ""
        raise PluginError(f"{error} ({opened.folder} was made with {made_with or 'unnamed plugins'}{again})") from error
    except ConfigError as error:
        raise CheckpointError(f"{opened.folder / CONFIG}: {error}") from error
    stored = format_of(opened.weights)
    wanted = SAFE.get(stored, stored) if dtype is None else dtype
    _fill(model, opened, torch.device(device), wanted)
    return model.to(device, wanted).eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in memory.

    Raises:
        CheckpointError: the file is missing, cut short, or something else (a pickle, say) under this name.
    """
    if not path.is_file():
        raise CheckpointError(without_weights(path))
    return {name: read(piece) for name, piece in open_file(path).items()}


def _fill(model: Model, opened: Opened, device: torch.device, dtype: torch.dtype) -> None:
    report = compare(model, opened.weights)
    if report:
        raise CheckpointError(f"{opened.folder} does not fit its recipe: {report}")
    model.load_state_dict({n: _placed(p, device, dtype) for n, p in opened.weights.items()}, assign=True)


def _placed(piece: Piece, device: torch.device, dtype: torch.dtype) -> Tensor:
    """In its format on its device: a window on the file where that is all, else one tensor at a time in memory."""
    wanted = dtype if piece.dtype.is_floating_point else piece.dtype
    if device.type == "cpu":
        return piece.tensor() if wanted == piece.dtype else read(piece, wanted)
    return read(piece).to(device, wanted)


class Shaped(Protocol):
    """A tensor, or one that has not been read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


ShapedT = TypeVar("ShapedT", bound=Shaped)


def compare(model: Model, weights: Mapping[str, Shaped]) -> str:
    """What is missing, surplus or of another shape, in words; empty where all fits."""
    own = model.state_dict()
    words = [f"missing {name}" for name in own if name not in weights]
    words += [f"surplus {name}{nearest(name, own) if not words else ''}" for name in weights if name not in own]
    words += [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape and not _free(name)
    ]
    return "; ".join(words[:3]) + (f"; and {len(words) - 3} more" if len(words) > 3 else "")


def _free(name: str) -> bool:
    # a learnt vocabulary is as long as it was learnt
    return name.endswith(".vocabulary")


def fitting(model: Model, weights: Mapping[str, ShapedT]) -> dict[str, ShapedT]:
    """The weights of another model that fit this one by name and shape, for `--init`."""
    own = model.state_dict()
    return {n: w for n, w in weights.items() if n in own and (own[n].shape == w.shape or _free(n))}
