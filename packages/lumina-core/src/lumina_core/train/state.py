"""What a run remembers between two lives: weights, their average, the optimizers' state and the number of the step."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint import read_weights, stored, write_config, writing
from lumina_core.errors import CheckpointError
from lumina_core.files import sweep
from lumina_core.folders import AVERAGED, WEIGHTS
from lumina_core.model import Model
from lumina_core.plugins.registry import Registry
from lumina_core.train.optimizer import Optimizers
from lumina_core.train.step import Average

OPTIMIZER, NUMBERS = "train/optimizer.safetensors", "train/state.json"


@dataclass(frozen=True)
class Run:
    """Everything of a run that changes as it goes on."""

    model: Model
    average: Average
    optimizers: Optimizers


def save_run(run: Run, done: int, out: Path, registry: Registry) -> Path:
    """Write a checkpoint after `done` steps, whole or not at all.

    Raises:
        CheckpointError: it cannot be written; older checkpoints are as they were.
    """
    folder = out / "checkpoints" / f"step-{done:08d}"
    with writing(folder) as partial:
        write_config(partial, run.model.recipe, registry)
        save_file(stored(run.model.state_dict(), None), partial / WEIGHTS)
        save_file(stored(run.average.state(run.model), None), partial / AVERAGED)
        (partial / "train").mkdir()
        tensors, numbers = _taken_apart(run.optimizers)
        save_file(tensors, partial / OPTIMIZER)
        (partial / NUMBERS).write_text(json.dumps({"done": done, "optimizers": numbers}), encoding="utf-8")
    return folder


def load_run(run: Run, folder: Path) -> int:
    """Put a checkpoint into a fresh run of the same recipe; gives the number of steps done."""
    try:
        state = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        run.model.load_state_dict(read_weights(folder / WEIGHTS))
        averaged = read_weights(folder / AVERAGED)
        for name, weight in run.average.weights.items():
            weight.copy_(averaged[name])
        _put_together(run.optimizers, read_weights(folder / OPTIMIZER), state["optimizers"])
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not fit this run ({error}); was the recipe changed since?") from error
    return int(state["done"])


def newest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    folders = sorted((out / "checkpoints").glob("step-*"))
    return folders[-1] if folders else None


def prune(out: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what was left half-written."""
    for place in (out, out / "checkpoints"):
        sweep(place)
    for folder in sorted((out / "checkpoints").glob("step-*"))[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def _taken_apart(optimizers: Optimizers) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimizer states as tensors by `member.parameter.key` and, for each member, the plain numbers among them."""
    tensors: dict[str, Tensor] = {}
    numbers: list[dict[str, Any]] = []
    for place, member in enumerate(optimizers.members):
        plain: dict[str, Any] = {}
        for parameter, state in member.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{place}.{parameter}.{key}"] = value.detach().cpu().contiguous()
                else:
                    plain[f"{parameter}.{key}"] = value
        numbers.append(plain)
    return tensors, numbers


def _put_together(optimizers: Optimizers, tensors: dict[str, Tensor], numbers: list[dict[str, Any]]) -> None:
    if len(numbers) != len(optimizers.members):
        raise ValueError(f"it has the states of {len(numbers)} optimizers, this run has {len(optimizers.members)}")
    for place, member in enumerate(optimizers.members):
        moved = [parameter for group in member.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        plain = {f"{place}.{key}": value for key, value in numbers[place].items()}
        for name, value in [*tensors.items(), *plain.items()]:
            owner, parameter, key = name.split(".", 2)
            if int(owner) == place:
                if isinstance(value, Tensor) and value.ndim and value.shape != moved[int(parameter)].shape:
                    raise ValueError(f"the optimizer's state {name} is of another weight")
                states.setdefault(int(parameter), {})[key] = value.clone() if isinstance(value, Tensor) else value
        whole = member.state_dict()
        member.load_state_dict({"state": states, "param_groups": whole["param_groups"]})
