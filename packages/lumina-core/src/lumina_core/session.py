"""The Python face of generation: open a model once, ask it many times, save what comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint import load_model
from lumina_core.config import nearest
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.generate import OnStep, Result, generate
from lumina_core.model import Model
from lumina_core.plugins.loader import load
from lumina_core.plugins.registry import Registry
from lumina_core.request import Request


@dataclass(frozen=True)
class Answer:
    """One thing that was generated: its data (channels, ...), what was asked and how it came to be."""

    data: Tensor
    record: Mapping[str, Any]
    model: Model

    def save(self, path: str | Path) -> Path:
        """Write it as a file, the record in its metadata.

        Raises:
            ConfigError: the folder is not there or cannot be written to.
        """
        path = Path(path)
        try:
            self.model.task.save(self.data, path, self.record)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
        return path


class Session:
    """An opened model. `ask` takes what the task's Request takes: prompt, seed, size, steps, and so on."""

    def __init__(self, model: Model, registry: Registry) -> None:
        self.model, self.registry = model, registry

    def ask(self, on_step: OnStep | None = None, **asked: Any) -> list[Answer]:
        """Answer one request; as many answers as its `count`.

        Raises:
            ConfigError: a field is unknown or out of its range.
        """
        return self.ask_all([self.request(**asked)], on_step)

    def ask_all(self, requests: Sequence[Request], on_step: OnStep | None = None) -> list[Answer]:
        """Answer several requests in one batch; they must agree in size and settings."""
        try:
            result = generate(self.model, self.registry, requests, on_step)
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise ConfigError("there is not enough memory for this; ask for a smaller size or fewer at once") from error
        return list(self._answers(requests, result))

    def request(self, **asked: Any) -> Request:
        """A checked request of this model's task."""
        settings_type: Any = self.model.task.Request
        request: Request = settings_type.read(asked, "request")
        return request

    def notes(self, request: Request) -> list[str]:
        """What the user should know of a request: the part of a long text that the model does not read."""
        said = [self.model.task.conditions(request), self.model.task.silences(request)]
        speakers = self.model.speakers
        texts: list[tuple[Any, str]] = [
            (speakers.get(field), value) for part in said for field in part for value in part[field]
        ]
        rest = [speaker.unread(text) for speaker, text in texts if hasattr(speaker, "unread")]
        return [f"this model does not read so long a text; left out from: '{text[:40]}'" for text in rest if text]

    def _answers(self, requests: Sequence[Request], result: Result) -> Iterator[Answer]:
        settings = result.record()["settings"]
        rows = [request for request in requests for _ in range(request.count)]
        for data, seed, request in zip(result.data, result.seeds, rows, strict=True):
            said = request.model_dump(mode="json", exclude_none=True, exclude={"count", *settings})
            yield Answer(data, {**said, **result.record(), "seed": seed}, self.model)


def open_model(model: str | Path | None = None, *, task: str | None = None, device: str = "cpu") -> Session:
    """Open a model folder, or an installed model by its name.

    Args:
        model: folder or name; None: the first installed model (for `task`, where given).

    Raises:
        ConfigError: no model is called so.
        CheckpointError, PluginError: the folder cannot be loaded.
    """
    registry = load()
    installed = {n: m for n, m in registry.models().items() if task is None or m.extra["task"] == task}
    if model is None:
        if not installed:
            raise ConfigError("no installed plugin brings a model for this; name a folder with --model DIR")
        model = next(iter(installed))
    if str(model) in installed:
        package, _, path = installed[str(model)].target.partition(":")
        with as_file(files(package) / path) as folder:
            return _session(folder, registry, task, device)
    if not Path(model).exists():
        raise CheckpointError(
            f"no model folder {model}, and no installed model is called so{nearest(str(model), installed)}"
        )
    return _session(Path(model), registry, task, device)


def _session(folder: Path, registry: Registry, task: str | None, device: str) -> Session:
    _check_device(device)
    model = load_model(folder, registry, device)
    if task is not None and model.recipe.task.use != task:
        raise ConfigError(f"{folder} is a model for {model.recipe.task.use}, not for {task}; choose another --model")
    return Session(model, registry)


def _check_device(device: str) -> None:
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device '{device}' cannot be used here ({reason}); try --device cpu") from error


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
