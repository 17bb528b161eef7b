"""Where models and trainings lie: installed models by name, model folders, checkpoints. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from lumina_core.errors import CheckpointError, ConfigError, suggest
from lumina_core.io import check_replaceable, restore_dir, user_path
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry

CONFIG_FILE, WEIGHTS_FILE, EMA_WEIGHTS_FILE = "config.json", "model.safetensors", "ema.safetensors"
OPTIMIZER_FILE, STATE_FILE = "training/optimizer.safetensors", "training/state.json"
"""Files of a checkpoint besides those of a model."""
SHARDED_INDEX_PATH = "sharded/index.json"
"""File of a checkpoint whose tensors several processes wrote in parts."""
LOCK_FILE = ".lumina.lock"
"""File in the folder of a training that is locked while the training runs."""
RUN_NAMES = ("model", "lora", "checkpoints", "samples", "tensorboard", "metrics.csv", "recipe.yaml", "anomalies.jsonl")
"""Names that a training writes in its folder."""
MAX_NAME_CHARS, MAX_SHOWN_CHARS = 4096, 200


@contextmanager
def find_model(name_or_folder: str | Path, registry: Registry, task: str | None = None) -> Iterator[Path]:
    """Yield the folder of a model: an installed one by its name, or a folder.

    Args:
        task: component type of the task of the installed model; None: any.

    Raises:
        ConfigError: the installed model is of another task.
        CheckpointError: there is neither; the nearest name is offered.
    """
    name = str(name_or_folder)
    entry = registry.entry("model", name)
    if entry is not None and task in (None, entry.extra["task"]):
        package, _, path = entry.target.partition(":")
        with as_file(files(package) / path) as folder:
            yield folder
        return
    if "\0" not in name and len(name) < MAX_NAME_CHARS:
        with suppress(OSError):
            restore_dir(Path(name_or_folder))
    model_path = _model_path(name_or_folder)
    if _is_dir(model_path):
        yield model_path
        return
    installed = [n for n, one in registry.models().items() if task in (None, one.extra["task"])]
    names = f"Installed models: {', '.join(installed) or 'none'}"
    if entry is not None:
        raise ConfigError(f"model: got {name}, a model for {entry.extra['task']}, expected {task}. {names}")
    raise CheckpointError(
        f"model: got '{name[:MAX_SHOWN_CHARS]}', expected a model folder or the name of an installed model"
        f"{suggest(name, installed) or '.'} {names}"
    )


def _model_path(name_or_folder: str | Path) -> Path:
    """Return the folder that a path means: itself, or the folder of config.json or of the weights that it names.

    Raises:
        CheckpointError: the path is another file.
    """
    path = user_path(name_or_folder)
    try:
        if not path.is_file():
            return path
    except (OSError, ValueError):  # too long a name; a NUL in it
        return path
    if path.name == CONFIG_FILE or path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
        return path.parent
    raise CheckpointError(f"model: got the file {path}, expected a model folder. Name the folder that it lies in.")


def _is_dir(path: str | Path) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # too long a name; a NUL in it
        return False


def check_model(name_or_folder: str | Path | None, task: str | None = None) -> None:
    """Raise the error of `find_model` if no installed plugin has this model; None is the built-in one."""
    if name_or_folder is not None:
        with find_model(name_or_folder, load_plugins(), task):
            pass


def list_checkpoint_dirs(out: Path) -> list[Path]:
    """Return the folders of checkpoints of a training, the oldest first, also of incomplete ones."""
    folders = [one for one in (out / "checkpoints").glob("step-*") if checkpoint_step(one) >= 0]
    return sorted(folders, key=checkpoint_step)


def checkpoint_step(folder: Path) -> int:
    """Return the number of steps in the name of a checkpoint, `step-00000500`; -1 for another name."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else -1


def list_checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first; folders that lack a file do not count."""
    return [one for one in list_checkpoint_dirs(out) if _has_files(one)]


def latest_checkpoint(out: Path) -> Path | None:
    """Return the latest complete checkpoint of a run; None if it has none."""
    return next(reversed(list_checkpoints(out)), None)


def _has_files(folder: Path) -> bool:
    is_sharded = (folder / SHARDED_INDEX_PATH).is_file()
    whole = () if is_sharded else (WEIGHTS_FILE, EMA_WEIGHTS_FILE, OPTIMIZER_FILE)
    return all((folder / file).is_file() for file in (CONFIG_FILE, STATE_FILE, *whole))


def check_new_dir(folder: Path, setting: str) -> None:
    """Raise ConfigError unless a path is a folder, or can be made one; writes nothing."""
    try:
        existing = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
        is_dir = existing.is_dir()
    except (OSError, ValueError) as error:  # too long a name; a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{setting}: cannot use {str(folder)[:MAX_SHOWN_CHARS]} ({reason}).") from error
    if not is_dir:
        below = "" if existing == folder else f"{folder} below "
        raise ConfigError(f"{setting}: got {below}the file {existing}, expected a folder, existing or new.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}: got {folder}, and {existing} is not writable. Choose another folder.")


def check_run_dir(out: Path, resume: bool | Literal["auto"] = "auto") -> None:
    """Check that a training may use a folder; writes nothing.

    Args:
        out: folder of the training.
        resume: whether it has to hold a training (True), must not hold one (False), or may ("auto").

    Raises:
        ConfigError: `out` is a file, cannot be made, or holds something else or no checkpoint to resume.
    """
    check_new_dir(out, "out")
    checkpoint = latest_checkpoint(out)
    # a lock file is left behind by every training; without one, such names belong to other files
    foreign = [] if (out / LOCK_FILE).exists() else [name for name in RUN_NAMES if (out / name).exists()]
    if foreign and checkpoint is None:
        raise ConfigError(
            f"out: got {out}, which has {', '.join(foreign)} of something else, expected a new folder or that of a "
            "training. Nothing was changed. Choose another folder."
        )
    if checkpoint is None and resume is True:
        raise ConfigError(
            f"resume: got {out}, which has no checkpoint, expected the folder of a training. Check its name, "
            "or train without resuming."
        )
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"out: got {out}, which holds a training already ({checkpoint.name}), expected a new folder. "
            "Resume that training, or choose another folder."
        )


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raise ConfigError if the destination overlaps the source, or holds something that may not be replaced."""
    source_path, destination_path = source.resolve(), destination.resolve()
    if (
        source_path == destination_path
        or source_path in destination_path.parents
        or destination_path in source_path.parents
    ):
        raise ConfigError(f"destination: got {destination}, expected a folder neither in {source} nor around it.")
    try:
        check_replaceable(destination, folder=True)
    except OSError as error:
        raise ConfigError(f"destination: got {destination}: {error.strerror}. Choose a new folder.") from error
    is_empty_dir = destination.is_dir() and not any(destination.iterdir())
    if destination.exists() and not is_empty_dir and not overwrite:
        raise ConfigError(f"destination: got {destination}, which exists. Choose another, or allow to overwrite it.")
