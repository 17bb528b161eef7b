"""One folder for a model: config.json (recipe, schema, plugins) and model.safetensors, whole or absent. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lumina_core.config import nearest
from lumina_core.errors import CheckpointError, ConfigError, PluginError
from lumina_core.files import whole_folder
from lumina_core.model import Model, build_model
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import SCHEMA, Recipe, read_recipe

CONFIG, WEIGHTS, AVERAGED = "config.json", "model.safetensors", "ema.safetensors"
MAX_CONFIG_BYTES = 1 << 20


def save_model(model: Model, registry: Registry, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model folder, whole or not at all.

    Args:
        dtype: floating weights are stored in it; None keeps theirs.
    """
    with writing(folder) as partial:
        write_config(partial, model.recipe, registry)
        save_file(stored(model.state_dict(), dtype), partial / WEIGHTS)


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
    plugins = dict(registry.owner(kind, name) for kind, name in recipe.used() if kind in registry.kinds())
    content = {"lumina": SCHEMA, "plugins": plugins, "recipe": recipe.model_dump(mode="json", exclude_defaults=True)}
    (folder / CONFIG).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: contiguous, on the CPU, floating ones in `dtype`."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if dtype is None:
        return kept
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in kept.items()}


class _Unfilled(TorchFunctionMode):
    """Leaves out every filling of fresh weights, which are about to be replaced.

    Drawing them on the meta device would make torch import its compiler, which takes longer than a picture.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def load_model(folder: Path, registry: Registry, device: str | torch.device = "cpu") -> Model:
    """A model from its folder (or a run's folder: its newest checkpoint), averaged weights first, ready to be asked.

    Raises:
        CheckpointError: the folder is missing, half-written, of a newer schema, or its weights do not fit its recipe.
        PluginError: a plugin that the recipe needs is not installed or broken.
    """
    folder = model_folder(folder)
    recipe, plugins = read_config(folder)
    weights = folder / AVERAGED if (folder / AVERAGED).is_file() else folder / WEIGHTS
    try:
        with torch.device("meta"), _Unfilled():
            model = build_model(recipe, registry)
    except PluginError as error:
        made_with = ", ".join(f"{name} {version}" for name, version in plugins.items())
        raise PluginError(f"{error} ({folder} was made with {made_with or 'unnamed plugins'})") from error
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    _fill(model, read_weights(weights), weights)
    return model.to(device).eval()


def model_folder(folder: Path) -> Path:
    """Where in a folder the model lies: here, or in the newest whole checkpoint of a run."""
    if (folder / CONFIG).is_file():
        return folder
    runs = sorted((folder / "checkpoints").glob("step-*"))
    if runs:
        return runs[-1]
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}; see what there is with: lumina models")
    raise CheckpointError(f"{folder} holds no {CONFIG}: it is no model folder, or one that was never finished")


def read_config(folder: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe and the plugins of a model folder."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; it is no model's settings")
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["lumina"]
        if not isinstance(schema, int) or schema > SCHEMA:
            raise CheckpointError(
                f"{path} is of schema {schema}; this lumina-core reads up to {SCHEMA}. "
                "Install a newer one: pip install -U lumina-core"
            )
        recipe, plugins = dict(content["recipe"]), dict(content.get("plugins", {}))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a model's settings ({error}); fetch or save the model again"
        ) from error
    try:
        return read_recipe(recipe, str(path)), plugins
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing, cut short, or something else (a pickle, say) under this name.
    """
    if not path.is_file():
        raise CheckpointError(_without_weights(path))
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}); fetch or save the model again"
        ) from error


def _without_weights(path: Path) -> str:
    pickles = [file.name for file in path.parent.glob("*") if file.suffix in {".pth", ".pt", ".bin", ".ckpt", ".pkl"}]
    if pickles:
        return (
            f"{path.parent} has {pickles[0]} but no {path.name}; pickled weights are never loaded, convert them first"
        )
    return f"{path.parent} has no {path.name}; the folder is half-written or not a model"


def _fill(model: Model, weights: Mapping[str, Tensor], path: Path) -> None:
    report = compare(model, weights)
    if report:
        raise CheckpointError(f"{path} does not fit its recipe: {report}")
    model.load_state_dict(stored(weights, torch.float32), assign=True)


def compare(model: Model, weights: Mapping[str, Tensor]) -> str:
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


def fitting(model: Model, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The weights of another model that fit this one by name and shape, for `--init`."""
    own = model.state_dict()
    return {n: w for n, w in weights.items() if n in own and (own[n].shape == w.shape or _free(n))}
