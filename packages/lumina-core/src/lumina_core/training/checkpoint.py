"""What a run remembers between two lives: weights, their average, the optimizers' state and the number of the step."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lumina_core.errors import CheckpointError
from lumina_core.io import remove_partial
from lumina_core.model import Model
from lumina_core.model_dir import (
    EMA_WEIGHTS_FILE,
    WEIGHTS_FILE,
    atomic_model_dir,
    read_weights,
    to_cpu_contiguous,
    write_config,
)
from lumina_core.plugins.registry import Registry
from lumina_core.training.optim import EMA, OptimizersContainer

OPTIMIZER_FILE, STATE_FILE = "training/optimizer.safetensors", "training/state.json"


@dataclass(frozen=True)
class TrainState:
    """Everything of a run that changes as it goes on."""

    model: Model
    ema: EMA
    optimizers: OptimizersContainer


def save_checkpoint(train_state: TrainState, step: int, out: Path, registry: Registry) -> Path:
    """Write a checkpoint after `done` steps, whole or not at all.

    Raises:
        CheckpointError: it cannot be written; older checkpoints are as they were.
    """
    folder = out / "checkpoints" / f"step-{step:08d}"
    with atomic_model_dir(folder) as partial:
        write_config(partial, train_state.model.recipe, registry)
        save_file(to_cpu_contiguous(train_state.model.state_dict()), partial / WEIGHTS_FILE)
        save_file(to_cpu_contiguous(train_state.ema.state_dict(train_state.model)), partial / EMA_WEIGHTS_FILE)
        (partial / "training").mkdir()
        tensors, scalars = _optimizers_to_tensors(train_state.optimizers)
        save_file(tensors, partial / OPTIMIZER_FILE)
        (partial / STATE_FILE).write_text(json.dumps({"step": step, "optimizers": scalars}), encoding="utf-8")
    return folder


def load_checkpoint(train_state: TrainState, folder: Path) -> int:
    """Put a checkpoint into a fresh run of the same recipe; gives the number of steps done."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        train_state.model.load_state_dict(read_weights(folder / WEIGHTS_FILE))
        ema_weights = read_weights(folder / EMA_WEIGHTS_FILE)
        for name, weight in train_state.ema.weights.items():
            weight.copy_(ema_weights[name])
        _optimizers_from_tensors(train_state.optimizers, read_weights(folder / OPTIMIZER_FILE), state["optimizers"])
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not fit this run ({error}); was the recipe changed since?") from error
    return int(state["step"])


def latest_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    folders = sorted((out / "checkpoints").glob("step-*"))
    return folders[-1] if folders else None


def delete_old_checkpoints(out: Path, keep_latest_k: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what was left half-written."""
    for directory in (out, out / "checkpoints"):
        remove_partial(directory)
    for folder in sorted((out / "checkpoints").glob("step-*"))[:-keep_latest_k]:
        shutil.rmtree(folder, ignore_errors=True)


def _optimizers_to_tensors(optimizers: OptimizersContainer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimizer states as tensors by `member.parameter.key` and, for each member, the plain numbers among them."""
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
        raise ValueError(f"it has the states of {len(scalars)} optimizers, this run has {len(optimizers.optimizers)}")
    for index, optimizer in enumerate(optimizers.optimizers):
        params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        own_scalars = {f"{index}.{key}": value for key, value in scalars[index].items()}
        for name, value in [*tensors.items(), *own_scalars.items()]:
            owner, parameter, key = name.split(".", 2)
            if int(owner) == index:
                if isinstance(value, Tensor) and value.ndim and value.shape != params[int(parameter)].shape:
                    raise ValueError(f"the optimizer's state {name} is of another weight")
                states.setdefault(int(parameter), {})[key] = value.clone() if isinstance(value, Tensor) else value
        current = optimizer.state_dict()
        optimizer.load_state_dict({"state": states, "param_groups": current["param_groups"]})
