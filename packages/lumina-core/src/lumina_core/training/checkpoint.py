"""Checkpoints of a training: weights, their moving average, optimizer states and the number of steps."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lumina_core import model_dir
from lumina_core.adapters.base import check_resumed_base
from lumina_core.adapters.lora import has_adapter
from lumina_core.checkpoint import compare
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.errors import CheckpointError
from lumina_core.io import remove_dir, remove_partial
from lumina_core.model import Model
from lumina_core.model_dir import (
    CONFIG_FILE,
    EMA_WEIGHTS_FILE,
    WEIGHTS_FILE,
    atomic_model_dir,
    checkpoint_step,
    describe_mismatch,
    read_model_config,
    read_weights,
    to_cpu_contiguous,
    write_config,
)
from lumina_core.plugins.registry import Registry
from lumina_core.training.optim import EMA, OptimizersContainer

OPTIMIZER_FILE, STATE_FILE = "training/optimizer.safetensors", "training/state.json"
FILES = (CONFIG_FILE, WEIGHTS_FILE, EMA_WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE)
"""Files of a complete checkpoint."""


def save_checkpoint(
    folder: Path,
    step: int,
    model: Model,
    ema: EMA,
    optimizers: OptimizersContainer,
    registry: Registry,
    base_sha256: str = "",
) -> None:
    """Write the state of a training after a number of steps as a folder, atomically.

    Of a model with an adapter, only the adapter is written, and the hash of its base.

    Raises:
        CheckpointError: the folder cannot be written; older checkpoints are unchanged.
    """
    with atomic_model_dir(folder) as partial:
        write_config(partial, model.recipe, registry)
        averages = ema.weights if has_adapter(model) else ema.state_dict(model)
        save_file(to_cpu_contiguous(_saved_weights(model)), partial / WEIGHTS_FILE)
        save_file(to_cpu_contiguous(averages), partial / EMA_WEIGHTS_FILE)
        (partial / "training").mkdir()
        tensors, scalars = _optimizers_to_tensors(optimizers)
        save_file(tensors, partial / OPTIMIZER_FILE)
        state = {"step": step, "optimizers": scalars} | ({"base_sha256": base_sha256} if base_sha256 else {})
        (partial / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


def load_checkpoint(folder: Path, model: Model, ema: EMA, optimizers: OptimizersContainer) -> int:
    """Load the state of a training of the same recipe, and return its number of steps.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is of another recipe.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        load_weights(folder, model, str(state.get("base_sha256", "")))
        ema.load_state_dict(read_weights(folder / EMA_WEIGHTS_FILE))
        _optimizers_from_tensors(optimizers, read_weights(folder / OPTIMIZER_FILE), state["optimizers"])
        return int(state["step"])
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: got a checkpoint of another recipe, or a damaged one ({error}). Resume with the recipe of the "
            "run, which is in its recipe.yaml."
        ) from error


def load_weights(folder: Path, model: Model, base_sha256: str = "") -> None:
    """Load the weights of a checkpoint into the model of its recipe.

    Args:
        base_sha256: hash of the base of an adapter; empty: there is none.

    Raises:
        CheckpointError: tensors are missing, surplus, or of another shape, or the adapter is one of another base.
    """
    weights = read_weights(folder / WEIGHTS_FILE)
    if has_adapter(model):
        with suppress(OSError, ValueError, AttributeError):  # `load_checkpoint` reports a damaged file
            found = json.loads((folder / STATE_FILE).read_text(encoding="utf-8")).get("base_sha256", "")
            check_resumed_base(found, base_sha256, str(model.recipe.base_model))
        expected = {name: tuple(tensor.shape) for name, tensor in _saved_weights(model).items()}
        mismatch = compare.describe_mismatch(weights, expected)
    else:
        mismatch = describe_mismatch(model, weights)
    if mismatch:
        raise CheckpointError(f"{folder}: the weights do not fit the recipe ({mismatch}). Resume with the same recipe.")
    model.load_state_dict(weights, strict=not has_adapter(model))


def _saved_weights(model: Model) -> dict[str, Tensor]:
    """Return the weights that a checkpoint holds: all, or those of the adapter."""
    if has_adapter(model):
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return model.state_dict()


def list_checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first; folders that lack a file do not count."""
    return [one for one in model_dir.list_checkpoints(out) if all((one / file).is_file() for file in FILES)]


def latest_checkpoint(out: Path) -> Path | None:
    """Return the latest complete checkpoint of a run; None if it has none."""
    return next(reversed(list_checkpoints(out)), None)


def latest_readable_checkpoint(out: Path) -> tuple[Path | None, dict[Path, str]]:
    """Return the latest checkpoint whose files can be read, and the reason for each later one that is damaged.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(list_checkpoints(out)):
        try:
            check_checkpoint(folder)
        except CheckpointError as error:
            damaged[folder] = str(error)
            continue
        return folder, damaged
    if damaged:
        raise CheckpointError(f"{out}: no checkpoint can be read. {next(iter(damaged.values()))}")
    return None, damaged


def check_checkpoint(folder: Path) -> None:
    """Check that the files of a checkpoint can be read, without reading tensors.

    Raises:
        CheckpointError: a file is missing, truncated, or of another form.
    """
    for file in (WEIGHTS_FILE, EMA_WEIGHTS_FILE, OPTIMIZER_FILE):
        open_safetensors(folder / file)
    read_model_config(folder)
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        int(state["step"]), list(state["optimizers"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE_FILE} cannot be read ({error}).") from error


def delete_old_checkpoints(out: Path, keep_latest_k: int) -> None:
    """Delete all checkpoints but the latest complete ones, and partially written files."""
    for directory in (out, out / "checkpoints"):
        remove_partial(directory)
    kept = list_checkpoints(out)[-keep_latest_k:]
    for folder in model_dir.list_checkpoints(out) if kept else ():
        if folder not in kept and checkpoint_step(folder) < checkpoint_step(kept[-1]):
            remove_dir(folder)


def _optimizers_to_tensors(optimizers: OptimizersContainer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Split optimizer states into tensors by `optimizer.parameter.key`, and plain numbers per optimizer."""
    tensors: dict[str, Tensor] = {}
    scalars: list[dict[str, Any]] = []
    for index, optimizer in enumerate(optimizers.optimizers):
        own_scalars: dict[str, Any] = {}
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{index}.{parameter}.{key}"] = value.detach().cpu().contiguous()
                else:
                    own_scalars[f"{parameter}.{key}"] = value
        scalars.append(own_scalars)
    return tensors, scalars


def _optimizers_from_tensors(
    optimizers: OptimizersContainer, tensors: dict[str, Tensor], scalars: list[dict[str, Any]]
) -> None:
    if len(scalars) != len(optimizers.optimizers):
        raise ValueError(f"{len(scalars)} optimizers instead of {len(optimizers.optimizers)}")
    for index, optimizer in enumerate(optimizers.optimizers):
        params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        own_scalars = {f"{index}.{key}": value for key, value in scalars[index].items()}
        for name, value in [*tensors.items(), *own_scalars.items()]:
            owner, parameter, key = name.split(".", 2)
            if int(owner) == index:
                if isinstance(value, Tensor) and value.ndim and value.shape != params[int(parameter)].shape:
                    raise ValueError(f"the shape of optimizer state {name} is of another weight")
                states.setdefault(int(parameter), {})[key] = value.clone() if isinstance(value, Tensor) else value
        current = optimizer.state_dict()
        optimizer.load_state_dict({"state": states, "param_groups": current["param_groups"]})
