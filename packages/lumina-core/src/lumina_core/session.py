"""The Python face of generation: open a model once, ask it many times, save what comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint import load_model
from lumina_core.config import nearest
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.model import Model
from lumina_core.placing import Placing, finite
from lumina_core.plugins.loader import load
from lumina_core.plugins.registry import Registry
from lumina_core.request import Request
from lumina_core.sampling.back import Inversion, Likelihood, invert, likelihood
from lumina_core.sampling.generate import OnStep, Result, generate
from lumina_core.sampling.given import NOTHING_GIVEN, Given
from lumina_core.sampling.reach import at_once, reach_note
from lumina_core.sampling.varied import with_noise_of


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
        self._opened: dict[str | None, Model] = {}

    def ask(self, on_step: OnStep | None = None, given: Given = NOTHING_GIVEN, **asked: Any) -> list[Answer]:
        """Answer one request; as many answers as its `count`.

        Args:
            on_step: sees every step (`sampling.seen`): its number, time and data; answers True to stop there.
            given: conditions or noise made elsewhere, see `sampling.given`; with a condition the words may be left out.

        Raises:
            ConfigError: a field is unknown or out of its range.
        """
        if given.said is not None:
            asked = {**dict.fromkeys(self._words(), "(given)"), **asked}
        return self.ask_all([self.request(**asked)], on_step, given)

    def ask_all(
        self, requests: Sequence[Request], on_step: OnStep | None = None, given: Given = NOTHING_GIVEN
    ) -> list[Answer]:
        """Answer several requests in one batch; they must agree in settings, shorter and smaller ones are masked.

        A model in float16 that overflows is asked again in bfloat16, or float32 where that is slow, with a warning; it
        stays in that format.

        Raises:
            LuminaError: what came out is no number.
        """
        if not requests:
            raise ConfigError("no request was given; wanted one or more")
        named = {request.weaker for request in requests} - {None}
        if named and given.weaker is None:
            given = replace(given, weaker=self._weaker(named.pop()))
        given, inverted = with_noise_of(self.model, self.registry, requests, given)
        try:
            result = finite(
                self.model, lambda watch: generate(self.model, self.registry, requests, watch, given), on_step
            )
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise ConfigError("there is not enough memory for this; ask for a smaller size or fewer at once") from error
        return list(self._answers(requests, result, inverted))

    def request(self, **asked: Any) -> Request:
        """A checked request of this model's task."""
        settings_type: Any = self.model.task.Request
        request: Request = settings_type.read(asked, "request")
        return request

    def invert(self, data: Tensor, **asked: Any) -> Inversion:
        """The noise that data (B, channels, ...) in [-1, 1] comes from under a request; `ask` with `Given(noise=...)`.

        Raises:
            ConfigError, ShapeError: a field is out of its range, or the data of another size or number.
        """
        return invert(self.model, self.registry, [self.request(**asked)], data)

    def likelihood(self, data: Tensor, probes: int = 1, **asked: Any) -> Likelihood:
        """How likely data (B, channels, ...) is under a request; guidance must be 1.

        Raises:
            ConfigError, ShapeError: as above, or there is guidance.
        """
        return likelihood(self.model, self.registry, [self.request(**asked)], data, probes)

    def notes(self, request: Request) -> list[str]:
        """What the user should know of a request: a long text that is not read to its end, a size above training.

        And what its task says of it (`notes`), where it has anything to say.
        """
        task: Any = self.model.task
        said = [self.model.task.conditions(request), self.model.task.silences(request)]
        speakers = self.model.speakers
        texts: list[tuple[Any, str]] = [
            (speakers.get(field), value) for part in said for field in part for value in part[field]
        ]
        rest = [speaker.unread(text) for speaker, text in texts if hasattr(speaker, "unread")]
        larger = reach_note(self.model, request)
        unread = [f"this model does not read so long a text; left out from: '{text[:40]}'" for text in rest if text]
        own: list[str] = task.notes(request) if hasattr(task, "notes") else []
        return [*unread, *([] if larger is None else [larger]), *own]

    def at_once(self, requests: Sequence[Request], most: int) -> int:
        """How many of these requests, of one result each, `ask_all` should be handed at a time, `most` at most."""
        return at_once(self.model, requests, most)

    def _weaker(self, name: str | None) -> Model:
        if name not in self._opened:
            opened = open_model(name, task=self.model.recipe.task.use, device=str(self.model.device))
            self._opened[name] = opened.model.to(self.model.dtype)
        return self._opened[name]

    def _words(self) -> list[str]:
        fields = self.model.task.Request.model_fields
        return [name for name, info in fields.items() if info.is_required() and info.annotation is str]

    def _answers(self, requests: Sequence[Request], result: Result, inverted: int) -> Iterator[Answer]:
        settings = result.record()["settings"]
        before = {"evaluations_to_invert": inverted} if inverted else {}
        rows = [request for request in requests for _ in range(request.count)]
        spared = [{}] * len(rows) if result.reused is None else [{"reused": reused} for reused in result.reused]
        for data, seed, request, own in zip(result.items(), result.seeds, rows, spared, strict=True):
            said = request.model_dump(mode="json", exclude_none=True, exclude={"count", *settings})
            yield Answer(data, {**said, **result.record(), **before, **own, "seed": seed}, self.model)


def open_model(
    model: str | Path | None = None, *, task: str | None = None, device: str = "cpu", dtype: str | None = None,
    offload: bool = False, text_device: str | None = None, compiled: bool = False,
) -> Session:  # fmt: skip
    """Open a model folder, or an installed model by its name.

    Args:
        model: folder (ours, or of a layout that a plugin reads) or name; None: the usual one of those installed (for
            `task`, where given), else the first.
        device: where it computes.
        dtype: float32, bfloat16, float16, or auto: bfloat16 where the device is fast at it. None: as it is stored,
            float16 as float32.
        offload: weights rest on the CPU, and each part stands on the device only while it works.
        text_device: where conditioners stay, `cpu` for instance; None: with the rest.
        compiled: torch.compile the backbone: the first answer of a size takes a minute longer, the others less time.
            On CUDA with CUDA graphs (mode `reduce-overhead`; not measured where this is made).

    Raises:
        ConfigError: the model is for another task, or there is no such device or format.
        CheckpointError, PluginError: the folder cannot be loaded.
    """
    placed = Placing.read(device, dtype, offload, text_device)
    registry = load()
    installed = {n: m for n, m in registry.models().items() if task is None or m.extra["task"] == task}
    if model is None:
        if not installed:
            raise ConfigError("no installed plugin brings a model for this; name a folder with --model DIR")
        model = next((name for name, entry in installed.items() if "usual" in entry.extra), next(iter(installed)))
    if str(model) in installed:
        package, _, path = installed[str(model)].target.partition(":")
        with as_file(files(package) / path) as folder:
            return _session(folder, registry, task, placed, compiled)
    if not Path(model).exists():
        other = registry.models().get(str(model))
        if other is not None:
            made_for = other.extra["task"]
            raise ConfigError(
                f"{model} is a model for {made_for}, not for {task}; choose another --model{nearest('', installed)}"
            )
        raise CheckpointError(
            f"no model folder {model}, and no installed model is called so{nearest(str(model), installed)}"
        )
    return _session(Path(model), registry, task, placed, compiled)


def _session(folder: Path, registry: Registry, task: str | None, placed: Placing, compiled: bool) -> Session:
    model = load_model(folder, registry, placed.resting, placed.dtype)
    if task is not None and model.recipe.task.use != task:
        raise ConfigError(f"{folder} is a model for {model.recipe.task.use}, not for {task}; choose another --model")
    if compiled and isinstance(model.backbone, torch.nn.Module):
        # graphs spare the launches of many small kernels, which is what a GPU waits for at small sizes
        graphs = {"mode": "reduce-overhead"} if placed.device.type == "cuda" and not placed.offload else {}
        model.backbone.compile(**graphs)
    return Session(placed.place(model), registry)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
