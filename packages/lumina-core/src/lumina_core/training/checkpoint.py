"""Checkpoints of a training: weights, their moving average, optimizer states and the number of steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint import lazy_tensors
from lumina_core.checkpoint.lazy_tensors import LazyTensor, open_prefix, read_tensor
from lumina_core.checkpoint.safetensors_io import (
    EMA_PREFIX,
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    is_sharded_dir,
    open_safetensors,
)
from lumina_core.errors import CheckpointError
from lumina_core.io import read_json, remove_dir, remove_partial
from lumina_core.locate import (
    EMA_WEIGHTS_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    checkpoint_step,
    list_checkpoint_dirs,
    list_checkpoints,
)
from lumina_core.model import Model, has_adapter
from lumina_core.model_dir import (
    atomic_model_dir,
    describe_mismatch,
    read_model_config,
    to_cpu_contiguous,
    write_config,
)
from lumina_core.plugins.registry import Registry
from lumina_core.training.distributed import local_rows, local_tensor
from lumina_core.training.optim import EMA, OptimizersContainer


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
        save_file(to_cpu_contiguous(saved_weights(model)), partial / WEIGHTS_FILE)
        save_file(to_cpu_contiguous(averages), partial / EMA_WEIGHTS_FILE)
        (partial / "training").mkdir()
        tensors, scalars = optimizers_to_tensors(optimizers)
        save_file(to_cpu_contiguous(tensors), partial / OPTIMIZER_FILE)
        state = {"step": step, "optimizers": scalars} | ({"base_sha256": base_sha256} if base_sha256 else {})
        (partial / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


def load_checkpoint(folder: Path, model: Model, ema: EMA, optimizers: OptimizersContainer) -> int:
    """Load the state of a training of the same recipe, and return its number of steps.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is of another recipe.
    """
    try:
        state = read_json(folder / STATE_FILE)
        load_weights(folder, model, str(state.get("base_sha256", "")))
        tensors = open_tensors(folder)
        averages = open_prefix(tensors, EMA_PREFIX)
        for name, average in ema.weights.items():
            copy_to_tensor(averages[name], average)
        _optimizers_from_tensors(optimizers, open_prefix(tensors, OPTIMIZER_PREFIX), state["optimizers"])
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
    weights = open_prefix(open_tensors(folder), MODEL_PREFIX)
    if has_adapter(model):
        from lumina_core.adapters.base import check_resumed_base

        with suppress(OSError, ValueError, AttributeError):  # `load_checkpoint` reports a damaged file
            found = read_json(folder / STATE_FILE).get("base_sha256", "")
            check_resumed_base(found, base_sha256, str(model.recipe.base_model))
        expected = {name: tuple(tensor.shape) for name, tensor in saved_weights(model).items()}
        mismatch = lazy_tensors.describe_mismatch(weights, expected)
    else:
        mismatch = describe_mismatch(model, weights)
    if mismatch:
        raise CheckpointError(f"{folder}: the weights do not fit the recipe ({mismatch}). Resume with the same recipe.")
    state = model.state_dict()
    sharded = {name for name in weights if name in state and local_tensor(state[name]) is not state[name]}
    for name in sharded:
        copy_to_tensor(weights[name], state[name])
    whole = {name: read_tensor(tensor) for name, tensor in weights.items() if name not in sharded}
    model.load_state_dict(whole, strict=not has_adapter(model) and not sharded)


def saved_weights(model: Model) -> dict[str, Tensor]:
    """Return the weights that a checkpoint holds: all, or those of the adapter."""
    if has_adapter(model):
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return model.state_dict()


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
    open_tensors(folder)
    read_model_config(folder)
    try:
        state = read_json(folder / STATE_FILE)
        int(state["step"]), list(state["optimizers"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE_FILE} cannot be read ({error}).") from error


def delete_old_checkpoints(out: Path, keep_latest_k: int) -> None:
    """Delete all checkpoints but the latest complete ones, and partially written files."""
    for directory in (out, out / "checkpoints"):
        remove_partial(directory)
    kept = list_checkpoints(out)[-keep_latest_k:]
    for folder in list_checkpoint_dirs(out) if kept else ():
        if folder not in kept and checkpoint_step(folder) < checkpoint_step(kept[-1]):
            remove_dir(folder)


def open_tensors(folder: Path) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint, of one file each or in parts: model/, ema/ and optimizer/ and their names.

    Raises:
        CheckpointError: a file is missing, truncated, or of another form.
    """
    if is_sharded_dir(folder):
        from lumina_core.checkpoint.sharded import open_sharded

        return open_sharded(folder)
    files = {MODEL_PREFIX: WEIGHTS_FILE, EMA_PREFIX: EMA_WEIGHTS_FILE, OPTIMIZER_PREFIX: OPTIMIZER_FILE}
    return {
        prefix + name: tensor
        for prefix, file in files.items()
        for name, tensor in open_safetensors(folder / file).items()
    }


def copy_to_tensor(source: LazyTensor, target: Tensor) -> None:
    """Copy the values of a lazy tensor to a tensor of its shape; to a sharded one, this process's rows alone."""
    local = local_tensor(target)
    if local is target:
        target.copy_(read_tensor(source))
        return
    start, stop = local_rows(target)
    if start < stop:
        local.copy_(read_tensor(source.slice_rows(start, stop)))


def optimizers_to_tensors(optimizers: OptimizersContainer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Split optimizer states into tensors by `optimizer.parameter.key`, and plain numbers per optimizer."""
    tensors: dict[str, Tensor] = {}
    scalars: list[dict[str, Any]] = []
    for index, optimizer in enumerate(optimizers.optimizers):
        own_scalars: dict[str, Any] = {}
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{index}.{parameter}.{key}"] = value.detach()
                else:
                    own_scalars[f"{parameter}.{key}"] = value
        scalars.append(own_scalars)
    return tensors, scalars


def _optimizers_from_tensors(
    optimizers: OptimizersContainer, tensors: Mapping[str, LazyTensor], scalars: list[dict[str, Any]]
) -> None:
    if len(scalars) != len(optimizers.optimizers):
        raise ValueError(f"{len(scalars)} optimizers instead of {len(optimizers.optimizers)}")
    for index, optimizer in enumerate(optimizers.optimizers):
        params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        own_scalars = {f"{index}.{key}": value for key, value in scalars[index].items()}
        for name, value in [*((name, None) for name in tensors), *own_scalars.items()]:
            owner, parameter, key = name.split(".", 2)
            if int(owner) == index:
                states.setdefault(int(parameter), {})[key] = (
                    _read_state(name, tensors[name], params[int(parameter)]) if name in tensors else value
                )
        current = optimizer.state_dict()
        optimizer.load_state_dict({"state": states, "param_groups": current["param_groups"]})


def _read_state(name: str, tensor: LazyTensor, parameter: Tensor) -> Tensor:
    """Read a tensor of an optimizer's state; sharded as its parameter is."""
    if not tensor.shape:
        return read_tensor(tensor)
    if tensor.shape != tuple(parameter.shape):
        raise ValueError(f"the shape of optimizer state {name} is of another weight")
    state = torch.zeros_like(parameter, dtype=tensor.dtype, requires_grad=False)
    copy_to_tensor(tensor, state)
    return state
