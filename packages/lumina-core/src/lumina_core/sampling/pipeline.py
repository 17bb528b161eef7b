"""The Python face of generation: open a model once, ask it many times, save what comes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import suggest_or_list
from lumina_core.device import resolve_dtype, supported_dtype
from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.model import Model
from lumina_core.model_dir import load_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.pretrained import FrozenModule
from lumina_core.request import Request
from lumina_core.sampling.callbacks import StepState
from lumina_core.sampling.generate import GenerationResult, StepCallback, generate_batch
from lumina_core.sampling.inputs import NO_INPUTS, PrecomputedInputs
from lumina_core.sampling.inversion import Inversion, Likelihood, invert, invert_for_variation, likelihood
from lumina_core.sampling.sizes import max_batch_size, size_warning

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Number formats that a user can name."""


@dataclass(frozen=True)
class Placement:
    """Where the parts of a model stand.

    Attributes:
        device: where it computes.
        dtype: of its weights; None: as they are stored, float16 as float32.
        offload: weights rest on the CPU, and each part stands on `device` only while it works.
        text_device: where conditioners stay; None: with the rest.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    offload: bool = False
    text_device: torch.device | None = None

    @classmethod
    def parse(cls, device: str, dtype: str | None, offload: bool, text_device: str | None) -> Placement:
        """As a user says it.

        Raises:
            ConfigError: there is no such device here, or no such format.
        """
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"there is no number format '{dtype}'{suggest_or_list(dtype, DTYPES)}")
        compute_device = _parse_device(device)
        conditioner_device = None if text_device is None else _parse_device(text_device)
        torch_dtype = (
            None if dtype is None else torch.float16 if dtype == "float16" else resolve_dtype(dtype, compute_device)
        )
        return cls(compute_device, torch_dtype, offload, conditioner_device)

    @property
    def storage_device(self) -> torch.device:
        """Where weights lie when nobody asks."""
        return torch.device("cpu") if self.offload else self.device

    def apply(self, model: Model) -> Model:
        """Tell a model that lies at `resting` where to work."""
        if self.offload:
            model.offload(self.device)
        if self.text_device is not None:
            model.conditioners.to(self.text_device)
            for module in model.conditioners.modules():
                if isinstance(module, FrozenModule):
                    module.pin_device(str(self.text_device))
        return model


def retry_on_overflow(
    model: Model, run: Callable[[StepCallback | None], GenerationResult], on_step: StepCallback | None
) -> GenerationResult:
    """What `make` makes; in a wider format once more where float16 has overflowed.

    Raises:
        LuminaError: what came is no number, in a format that is wide enough.
    """
    is_float16 = model.dtype == torch.float16
    result = run(_stop_on_nonfinite(on_step) if is_float16 else on_step)
    if bool(torch.isfinite(result.data).all()):
        return result
    if not is_float16:
        raise LuminaError("the model answered what is no number; its weights are broken, or the settings are extreme")
    wider_dtype = supported_dtype(torch.bfloat16, model.device)
    warnings.warn(f"float16 is too narrow for this model: it goes on in {str(wider_dtype)[6:]}", stacklevel=3)
    model.to(wider_dtype)
    return retry_on_overflow(model, run, on_step)


def _stop_on_nonfinite(on_step: StepCallback | None) -> StepCallback:
    """The same, but it stops the way at the first step that is no number."""

    def callback(state: StepState) -> bool | Tensor | None:
        if not bool(torch.isfinite(state.x_t).all()):
            return True
        return on_step(state) if on_step is not None else None

    return callback


def _parse_device(name: str) -> torch.device:
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device '{name}' cannot be used here ({reason}); try --device cpu") from error


@dataclass(frozen=True)
class Output:
    """One thing that was generated: its data (channels, ...), what was asked and how it came to be."""

    data: Tensor
    metadata: Mapping[str, Any]
    model: Model

    def save(self, path: str | Path) -> Path:
        """Write it as a file, the record in its metadata.

        Raises:
            ConfigError: the folder is not there or cannot be written to.
        """
        path = Path(path)
        try:
            self.model.generation_task.save(self.data, path, self.metadata)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
        return path


class Pipeline:
    """An opened model. `ask` takes what the task's Request takes: prompt, seed, size, steps, and so on."""

    def __init__(self, model: Model, registry: Registry) -> None:
        self.model, self.registry = model, registry
        self._guide_models: dict[str | None, Model] = {}

    def generate_one(
        self, on_step: StepCallback | None = None, inputs: PrecomputedInputs = NO_INPUTS, **options: Any
    ) -> list[Output]:
        """Answer one request; as many answers as its `count`.

        Args:
            on_step: sees every step (`sampling.seen`): its number, time and data; answers True to stop there.
            given: conditions or noise made elsewhere, see `sampling.given`; with a condition the words may be left out.

        Raises:
            ConfigError: a field is unknown or out of its range.
        """
        if inputs.cond is not None:
            options = {**dict.fromkeys(self._text_fields(), "(precomputed)"), **options}
        return self.generate([self.make_request(**options)], on_step, inputs)

    def generate(
        self, requests: Sequence[Request], on_step: StepCallback | None = None, inputs: PrecomputedInputs = NO_INPUTS
    ) -> list[Output]:
        """Answer several requests in one batch; they must agree in settings, shorter and smaller ones are masked.

        A model in float16 that overflows is asked again in bfloat16, or float32 where that is slow, with a warning; it
        stays in that format.

        Raises:
            LuminaError: what came out is no number.
        """
        if not requests:
            raise ConfigError("no request was given; wanted one or more")
        guide_names = {request.guide_model for request in requests} - {None}
        if guide_names and inputs.guide_model is None:
            inputs = replace(inputs, guide_model=self._guide_model(guide_names.pop()))
        inputs, inversion_nfe = invert_for_variation(self.model, self.registry, requests, inputs)
        try:
            result = retry_on_overflow(
                self.model,
                lambda callback: generate_batch(self.model, self.registry, requests, callback, inputs),
                on_step,
            )
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise ConfigError("there is not enough memory for this; ask for a smaller size or fewer at once") from error
        return list(self._outputs(requests, result, inversion_nfe))

    def make_request(self, **options: Any) -> Request:
        """A checked request of this model's task."""
        request_type: Any = self.model.task.Request
        request: Request = request_type.read(options, "request")
        return request

    def invert(self, data: Tensor, **options: Any) -> Inversion:
        """The noise that data (B, channels, ...) in [-1, 1] comes from under a request; `ask` with `Given(noise=...)`.

        Raises:
            ConfigError, ShapeError: a field is out of its range, or the data of another size or number.
        """
        return invert(self.model, self.registry, [self.make_request(**options)], data)

    def likelihood(self, data: Tensor, probes: int = 1, **options: Any) -> Likelihood:
        """How likely data (B, channels, ...) is under a request; guidance must be 1.

        Raises:
            ConfigError, ShapeError: as above, or there is guidance.
        """
        return likelihood(self.model, self.registry, [self.make_request(**options)], data, probes)

    def notes(self, request: Request) -> list[str]:
        """What the user should know of a request: a long text that is not read to its end, a size above training.

        And what its task says of it (`notes`), where it has anything to say.
        """
        fields = [
            self.model.generation_task.conditions(request),
            self.model.generation_task.negative_conditions(request),
        ]
        conditioners = self.model.conditioners_by_field
        texts: list[tuple[Any, str]] = [
            (conditioners.get(field), value) for values in fields for field in values for value in values[field]
        ]
        dropped = [conditioner.truncated_text(text) for conditioner, text in texts]
        size_note = size_warning(self.model, request)
        truncated = [
            f"this model does not read so long a text; left out from: '{text[:40]}'" for text in dropped if text
        ]
        return [*truncated, *([] if size_note is None else [size_note]), *self.model.task.notes(request)]

    def max_batch_size(self, requests: Sequence[Request], limit: int) -> int:
        """How many of these requests, of one result each, `ask_all` should be handed at a time, `most` at most."""
        return max_batch_size(self.model, requests, limit)

    def _guide_model(self, name: str | None) -> Model:
        if name not in self._guide_models:
            pipeline = load_pipeline(name, task=self.model.recipe.task.type, device=str(self.model.device))
            self._guide_models[name] = pipeline.model.to(self.model.dtype)
        return self._guide_models[name]

    def _text_fields(self) -> list[str]:
        fields = self.model.task.Request.model_fields
        return [name for name, info in fields.items() if info.is_required() and info.annotation is str]

    def _outputs(self, requests: Sequence[Request], result: GenerationResult, inversion_nfe: int) -> Iterator[Output]:
        settings = result.metadata()["settings"]
        inversion = {"inversion_nfe": inversion_nfe} if inversion_nfe else {}
        rows = [request for request in requests for _ in range(request.count)]
        cached = (
            [{}] * len(rows)
            if result.cached_nfe is None
            else [{"cached_nfe": cached_nfe} for cached_nfe in result.cached_nfe]
        )
        for data, seed, request, item_cached in zip(result.items(), result.seeds, rows, cached, strict=True):
            fields = request.model_dump(mode="json", exclude_none=True, exclude={"count", *settings})
            yield Output(data, {**fields, **result.metadata(), **inversion, **item_cached, "seed": seed}, self.model)


def load_pipeline(
    model: str | Path | None = None, *, task: str | None = None, device: str = "cpu", dtype: str | None = None,
    offload: bool = False, text_device: str | None = None, compile: bool = False,
) -> Pipeline:  # fmt: skip
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
    placement = Placement.parse(device, dtype, offload, text_device)
    registry = load_plugins()
    installed = {n: m for n, m in registry.models().items() if task is None or m.extra["task"] == task}
    if model is None:
        if not installed:
            raise ConfigError("no installed plugin brings a model for this; name a folder with --model DIR")
        model = next((name for name, entry in installed.items() if "default" in entry.extra), next(iter(installed)))
    if str(model) in installed:
        package, _, path = installed[str(model)].target.partition(":")
        with as_file(files(package) / path) as folder:
            return _load_dir(folder, registry, task, placement, compile)
    if not Path(model).exists():
        entry_for_other_task = registry.models().get(str(model))
        if entry_for_other_task is not None:
            other_task = entry_for_other_task.extra["task"]
            raise ConfigError(
                f"{model} is a model for {other_task}, not for {task}; choose another --model{suggest_or_list('', installed)}"
            )
        raise CheckpointError(
            f"no model folder {model}, and no installed model is called so{suggest_or_list(str(model), installed)}"
        )
    return _load_dir(Path(model), registry, task, placement, compile)


def _load_dir(folder: Path, registry: Registry, task: str | None, placement: Placement, compile: bool) -> Pipeline:
    model = load_model(folder, registry, placement.storage_device, placement.dtype)
    if task is not None and model.recipe.task.type != task:
        raise ConfigError(f"{folder} is a model for {model.recipe.task.type}, not for {task}; choose another --model")
    if compile and isinstance(model.backbone, torch.nn.Module):
        # graphs spare the launches of many small kernels, which is what a GPU waits for at small sizes
        compile_options = (
            {"mode": "reduce-overhead"} if placement.device.type == "cuda" and not placement.offload else {}
        )
        model.backbone.compile(**compile_options)
    return Pipeline(placement.apply(model), registry)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
