"""The pipeline: open a model once, generate from prompts or requests, save the results."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumina_core.data.words import read_words, unknown_words_note
from lumina_core.device import parse_device, resolve_dtype, supported_dtype
from lumina_core.errors import ConfigError, LuminaError, suggest
from lumina_core.locate import find_model
from lumina_core.model import Model
from lumina_core.model_dir import load_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Solver, SolverStep, Velocity
from lumina_core.request import Request
from lumina_core.sampling.generate import StepCallback, generate_items
from lumina_core.sampling.inputs import NO_INPUTS, Item, NoiseSampler, PrecomputedInputs, expand_requests
from lumina_core.sampling.resolve import (
    Overrides,
    SamplingPlan,
    ScheduleLike,
    batch_key,
    max_batch_size,
    resolve_sampling,
    size_warning,
)
from lumina_core.sampling.velocity import is_out_of_memory
from lumina_core.types import Result, Tokens

if TYPE_CHECKING:
    from lumina_core.adapters.lora import LoraStack

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Names of dtypes."""
BATCH_SIZE = 16
"""Largest number of results per batch, unless a call sets another."""


@dataclass(frozen=True)
class Placement:
    """Device and dtype of a model.

    Attributes:
        device: device of the computation.
        dtype: dtype of the weights; None: as stored, float16 as float32.
        offload: weights stay on the CPU, and each component is on `device` only while it computes.
        text_device: device of the conditioners; None: `device`.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    offload: bool = False
    text_device: torch.device | None = None

    @classmethod
    def parse(
        cls,
        device: str | torch.device,
        dtype: str | torch.dtype | None,
        offload: bool,
        text_device: str | torch.device | None,
    ) -> Placement:
        """Read devices and a dtype by name.

        Raises:
            ConfigError: the device is not available, or the dtype is not supported.
        """
        compute_device = parse_device(device)
        conditioner_device = None if text_device is None else parse_device(text_device, "text_device")
        return cls(compute_device, _parse_dtype(dtype, compute_device), offload, conditioner_device)

    @property
    def storage_device(self) -> torch.device:
        """Device of weights that are not in use."""
        return torch.device("cpu") if self.offload else self.device

    def apply(self, model: Model) -> Model:
        """Set the devices of a model that is on `storage_device`."""
        if self.offload:
            model.offload(self.device)
        if self.text_device is not None:
            from lumina_core.pretrained import FrozenModule

            model.conditioners.to(self.text_device)
            for module in model.conditioners.modules():
                if isinstance(module, FrozenModule):
                    module.pin_device(str(self.text_device))
        return model


def _parse_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    name = str(dtype).removeprefix("torch.")
    if dtype is None or name == "float16":
        return None if dtype is None else torch.float16
    if name not in DTYPES:
        raise ConfigError(f"dtype: got '{name}', expected one of {', '.join(DTYPES)}{suggest(name, DTYPES)}")
    return resolve_dtype(name, device)


class Pipeline:
    """A model and its generation: `pipe("a red heart", steps=10, seed=1).images[0]`.

    A call does not change the pipeline, so that several threads may call it at a time.

    Attributes:
        model: the model.
        registry: source of solvers, schedules and other components.
        placement: devices and dtype.
        name: name of the installed model, or the last two parts of the folder's path, for the metadata of results;
            None: a model built in memory.
    """

    def __init__(self, model: Model, registry: Registry, placement: Placement | None = None) -> None:
        self.model, self.registry = model, registry
        self.placement = placement or Placement(model.device, model.dtype)
        self._guide_models: dict[tuple[str, torch.dtype], Model] = {}
        self._wide_model: Model | None = None
        self.name: str | None = None
        self._folder: Path | None = None
        self._words: dict[str, None] | None = None
        self._lock = threading.RLock()
        self._loras: LoraStack | None = None
        self._lora_metadata: list[dict[str, Any]] = []

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        task: str | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        offload: bool = False,
        text_device: str | torch.device | None = None,
        compile: bool = False,
        registry: Registry | None = None,
    ) -> Pipeline:
        """Open a model folder, or an installed model by its name.

        Args:
            model: a folder (ours, or of a plugin's checkpoint format) or a name; None: the default model (of `task`).
            task: component type that the model's task must have; None: any.
            device: device of the computation, such as "cuda".
            dtype: torch dtype or its name; "auto" is bfloat16 if the device computes it natively. None: as stored,
                float16 as float32.
            offload: weights stay on the CPU, and each component is on the device only while it computes.
            text_device: device of the conditioners, "cpu" for instance; None: `device`.
            compile: compile the backbone with torch.compile: the first result of a size takes a minute longer, the
                others less time. On CUDA with CUDA graphs.
            registry: source of components; None: the installed plugins.

        Raises:
            ConfigError: the model is of another task, or the device or dtype is not available.
            CheckpointError: the folder cannot be loaded.
            PluginError: a plugin that the model needs is not installed.
        """
        placement = Placement.parse(device, dtype, offload, text_device)
        return cls._open(model, registry or load_plugins(), task, placement, compile)

    @classmethod
    def _open(
        cls, name: str | Path | None, registry: Registry, task: str | None, placement: Placement, compile: bool = False
    ) -> Pipeline:
        if name is None:
            name = registry.default_model(task)
            if name is None:
                raise ConfigError(
                    "model: got none, and no installed plugin has a model for this task. Give a model folder."
                )
        with find_model(name, registry, task) as folder:
            return cls._open_folder(folder, str(name), registry, task, placement, compile)

    @classmethod
    def _open_folder(
        cls, folder: Path, name: str, registry: Registry, task: str | None, placement: Placement, compile: bool
    ) -> Pipeline:
        model = load_model(folder, registry, placement.storage_device, placement.dtype)
        if task is not None and model.recipe.task.type != task:
            raise ConfigError(f"model: got {folder}, a model for {model.recipe.task.type}, expected {task}.")
        if compile and isinstance(model.backbone, torch.nn.Module):
            # CUDA graphs save the launches of many small kernels, which dominate at small sizes
            is_graph = placement.device.type == "cuda" and not placement.offload
            model.backbone.compile(**({"mode": "reduce-overhead"} if is_graph else {}))
        pipeline = cls(placement.apply(model), registry, placement)
        # the folders above may tell private names
        pipeline.name, pipeline._folder = "/".join(Path(name).parts[-2:]), folder
        return pipeline

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Pipeline:
        """Move the model to a device, or convert its weights to a dtype; return the pipeline itself.

        Raises:
            ConfigError: the device or dtype is not available, or the model is offloaded.
        """
        if self.placement.offload:
            raise ConfigError("device: got an offloaded pipeline, expected one without offload. Open it again.")
        old = self.placement
        placement = Placement.parse(device or old.device, dtype or old.dtype, False, old.text_device)
        self.model = placement.apply(self.model.to(placement.device, placement.dtype or self.model.dtype))
        self.placement, self._wide_model, self._guide_models = placement, None, {}
        return self

    @property
    def loras(self) -> Sequence[Mapping[str, Any]]:
        """`path` and `weight` of each loaded LoRA, as they stand in the metadata of results."""
        return tuple(self._lora_metadata)

    def load_lora(self, path: str | Path, weight: float = 1.0, strict: bool = True) -> str:
        """Load a LoRA or DoRA; several add up. Do not call it while another thread generates.

        Args:
            path: a folder of peft or of a training, or a file of peft, kohya, ComfyUI or diffusers.
            weight: factor of the update; 0: no effect.
            strict: refuse a file with keys that match no layer; False: skip them, with a warning that names them.

        Returns:
            The name of the LoRA.

        Raises:
            CheckpointError: the LoRA was trained on another model, a key matches no layer, or a shape differs.
            PluginError: peft is not installed.
        """
        from lumina_core.adapters.files import read_lora
        from lumina_core.adapters.lora import LoraStack  # needs peft

        with self._lock:
            self._loras = self._loras or LoraStack(self.model)
            name = self._loras.add(read_lora(path, self.model, self.registry, strict), weight, str(path))
            self._lora_metadata.append({"path": str(path), "weight": weight})
            self._wide_model = None
        return name

    def fuse(self) -> None:
        """Add the loaded LoRAs to the weights of the model: the same results up to rounding, without extra time."""
        with self._lock:
            if self._loras is not None:
                self._loras.fuse()
                self._lora_metadata = [{**one, "fused": True} for one in self._lora_metadata]
            self._wide_model = None

    def unload(self) -> None:
        """Remove the loaded LoRAs; results are those of the model without them, bit for bit. A fused one stays."""
        with self._lock:
            if self._loras is not None and self._loras.weights:
                self._loras.unload()
                self._lora_metadata = [one for one in self._lora_metadata if "fused" in one]
            self._wide_model = None

    def __call__(
        self,
        prompt: Any = None,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        solver: str | Solver | SolverStep | None = None,
        schedule: str | ScheduleLike | None = None,
        callback: StepCallback | None = None,
        output_type: str | None = None,
        batch_size: int | None = None,
        inputs: PrecomputedInputs = NO_INPUTS,
        **options: Any,
    ) -> Any:
        """Generate from a prompt, a request, or a list of them.

        Requests of different sizes and settings are grouped into batches, and the batches are split by the available
        memory. Each result is the same as alone, up to rounding.

        Args:
            prompt: value of the first required field of the task's request (a text, a class), a `Request` (see
                `make_request`), or a list of either.
            seed: seed of the first result; the following results have the following seeds. Or one seed per prompt; for
                one prompt, one result per seed. Default 0.
            generator: draws the seeds, instead of `seed`.
            solver: name, function (velocity, x, t, u) -> x, or `Solver`. Default: the model's.
            schedule: name, function steps -> times, or times that rise from 0 to 1. Default: the model's.
            callback: called with a `StepState` after every step. It may call `state.stop()`, or return another x_t.
            output_type: "tensor", "np", "latent" or one of the task ("pil" for images). Default: the task's first.
            batch_size: largest number of results per batch. Default: 16, and what fits into the memory.
            inputs: conditions, noise or initial data, instead of those made from the prompt.
            **options: fields of the task's request: steps, guidance_scale, size, count, negative_prompt and so on.

        Returns:
            `GenerationOutput` of the task: a sequence of `Result`, with `images` or `audios` and `sampling_rate`.

        Raises:
            ConfigError: an option is unknown or out of range, or the model does not support it.
            LuminaError: a result is not finite.
        """
        task = self.model.generation_task
        output_type = output_type or task.output_types[0]
        output_types = (*task.output_types, "latent")
        if output_type not in output_types:
            expected = ", ".join(output_types)
            raise ConfigError(
                f"output_type: got {output_type!r}, expected one of {expected}{suggest(output_type, output_types)}"
            )
        options |= {n: v for n, v in (("solver", solver), ("schedule", schedule)) if isinstance(v, str)}
        overrides = Overrides(
            None if isinstance(solver, str) else solver, None if isinstance(schedule, str) else schedule
        )
        requests = self._make_requests(prompt, seed, generator, options, inputs)
        finished = dict(self.iterate(requests, callback, inputs, overrides, batch_size, output_type == "latent"))
        results = [finished[index] for index in range(len(finished))]
        values = [r.data if output_type == "latent" else task.to_output(r.data, output_type) for r in results]
        return task.Output(results, values)

    def iterate(
        self,
        requests: Sequence[Request],
        callback: StepCallback | None = None,
        inputs: PrecomputedInputs = NO_INPUTS,
        overrides: Overrides = Overrides(),  # noqa: B008
        batch_size: int | None = None,
        latent: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        """Generate requests batch by batch, and yield each result with its index when its batch is finished."""
        items = expand_requests(self.model.generation_task, requests)
        if not items:
            raise ConfigError("prompt: got an empty list, expected at least one prompt or request.")
        inputs = inputs.per_result(items)
        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(_group_key(item), []).append(index)
        plans = {
            k: resolve_sampling(self.model, self.registry, items[g[0]].request, overrides) for k, g in groups.items()
        }
        for key, group in groups.items():
            by_size: dict[Any, list[int]] = {}
            for index in group:
                by_size.setdefault(items[index].size if plans[key].solver.adaptive else None, []).append(index)
            for same_size in by_size.values():
                limit = max_batch_size(self.model, [items[index].size for index in same_size]) or BATCH_SIZE
                limit = min(limit, batch_size or BATCH_SIZE)
                for start in range(0, len(same_size), limit):
                    batch = same_size[start : start + limit]
                    yield from self._generate(plans[key], items, inputs, batch, callback, latent)

    def make_request(self, **options: Any) -> Request:
        """Make a request of the model's task.

        Raises:
            ConfigError: a field is unknown, missing or out of range.
        """
        request_type: Any = self.model.generation_task.Request
        request: Request = request_type.read(options, "request")
        return request

    def velocity(self, prompt: Any = None, **options: Any) -> tuple[Velocity, Tokens]:
        """Return the velocity of a request, guidance included, and its noise as tokens.

        `integrate(velocity, tokens.values, schedule, solver=heun).values` are the tokens of the result; `decode` makes
        data of them.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        from lumina_core.sampling.inversion import velocity_of_requests

        requests = self._make_requests(prompt, options.pop("seed", None), None, options, NO_INPUTS)
        _, velocity, tokens = velocity_of_requests(self.model, self.registry, requests)
        seeds = [one.seed for request in requests for one in request.per_result()]
        return velocity, tokens.with_values(NoiseSampler(tokens, seeds, self.model.device)())

    @torch.inference_mode()
    def decode(self, tokens: Tokens) -> Tensor:
        """Decode tokens of one size to data (B, channels, ...), float32 on the CPU."""
        with self.model.onload("autoencoder"):
            return self.model.decode_latent(self.model.tokenizer.unpatchify(tokens)).float().cpu()

    def invert(self, data: Tensor, **options: Any) -> Any:
        """Return the noise of data (B, channels, ...) in [-1, 1] under a request, as an `Inversion`.

        `pipe(..., inputs=PrecomputedInputs(noise=inversion.noise))` generates the data again.

        Raises:
            ConfigError: an option is out of range, or the data are not finite.
            ShapeError: the data differ from the request in size or number.
        """
        from lumina_core.sampling.inversion import invert

        return invert(self.model, self.registry, [self.make_request(**options)], data)

    def likelihood(self, data: Tensor, probes: int = 1, **options: Any) -> Any:
        """Return the log-likelihood of data (B, channels, ...) under a request without guidance, as a `Likelihood`.

        Raises:
            ConfigError: an option is out of range, or guidance is on.
            ShapeError: the data differ from the request in size or number.
        """
        from lumina_core.sampling.inversion import likelihood

        return likelihood(self.model, self.registry, [self.make_request(**options)], data, probes)

    def notes(self, request: Request) -> list[str]:
        """Return warnings about a request: truncated text, a size far above training, and the task's own."""
        task, conditioners = self.model.generation_task, self.model.conditioners_by_field
        notes = []
        for values in (task.conditions(request), task.negative_conditions(request)):
            for field in values:
                for text in values[field]:
                    if field in conditioners and conditioners[field].truncated_text(text):
                        dropped = conditioners[field].truncated_text(text)
                        notes.append(f"{field}: the text is too long for this model; ignored: '{dropped[:40]}'")
        warning = size_warning(self.model, request)
        notes += self._guidance_notes(request)
        notes += self._word_notes(request)
        return [*notes, *([] if warning is None else [warning]), *task.notes(request)]

    def _word_notes(self, request: Request) -> list[str]:
        """Return a warning about words of the prompt that no training caption has, if the model folder lists those."""
        texts = [
            (field, text)
            for field, values in self.model.generation_task.conditions(request).items()
            for text in values
            if isinstance(text, str)
        ]
        if self._words is None:
            self._words = {} if self._folder is None else dict.fromkeys(read_words(self._folder))
        notes = [(field, unknown_words_note(text, self._words)) for field, text in texts if self._words]
        return [f"{field}: {note}" for field, note in notes if note]

    def _guidance_notes(self, request: Request) -> list[str]:
        """Return warnings about settings that have no effect at the guidance scale of a request."""
        scale = self.model.recipe.sampling.guidance_scale if request.guidance_scale is None else request.guidance_scale
        if scale == 0:
            return [
                "guidance_scale: at 0 the prompt has no effect; 1 is without guidance, larger follows the prompt more"
            ]
        negative = [name for name in type(request).model_fields if name.startswith("negative_")]
        unused = [name for name in negative if getattr(request, name) is not None]
        if scale == 1:
            names = ("guidance", "guidance_interval", "guidance_rescale", "guide_model")
            unused += [name for name in names if getattr(request, name) is not None]
            reason = "at guidance_scale 1, which is without guidance. Set a larger one"
        else:
            unused = unused if request.guide_model is not None else []
            reason = "with guide_model, which replaces it"
        return [f"{name}: has no effect {reason}" for name in unused]

    def _make_requests(
        self,
        prompt: Any,
        seed: int | Sequence[int] | None,
        generator: torch.Generator | None,
        options: dict[str, Any],
        inputs: PrecomputedInputs,
    ) -> list[Request]:
        request_type: Any = self.model.generation_task.Request
        fields = request_type.model_fields
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        if any(isinstance(p, Request) for p in prompts):
            unused = [n for n, v in (("seed", seed), ("generator", generator)) if v is not None] + list(options)
            if unused or not all(isinstance(p, Request) for p in prompts):
                name = unused[0] if unused else "prompt"
                raise ConfigError(
                    f"{name}: got it together with requests, expected it in the requests (`make_request`)."
                )
            return prompts
        _check_options(options, fields)
        prompt_field = request_type.argument_field()
        if inputs.cond is not None:
            text_fields = [name for name, info in fields.items() if info.is_required() and info.annotation is str]
            options = {**dict.fromkeys(text_fields, "(precomputed)"), **options}
        if prompt is not None and prompt_field is None:
            raise ConfigError("prompt: got a value, expected none: no field of this task's request is required.")
        if seed is not None and generator is not None:
            raise ConfigError("seed: got it together with generator, expected one of them.")
        if isinstance(seed, Sequence) and len(prompts) == 1:
            prompts *= len(seed)
        if isinstance(seed, Sequence) and len(seed) != len(prompts):
            raise ConfigError(f"seed: got {len(seed)} seeds for {len(prompts)} prompts, expected one for each.")
        requests = []
        for index, value in enumerate(prompts):
            named = {} if value is None or prompt_field is None else {prompt_field: value}
            if isinstance(seed, Sequence):
                named["seed"] = seed[index]
            elif generator is not None:
                named["seed"] = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            elif seed is not None or len(prompts) > 1:
                named["seed"] = (seed or 0) + index * int(options.get(request_type.results_field, 1))
            requests.append(self.make_request(**{**options, **named}))
        return requests

    def _generate(
        self,
        plan: SamplingPlan,
        items: Sequence[Item],
        inputs: PrecomputedInputs,
        batch: Sequence[int],
        callback: StepCallback | None,
        latent: bool,
    ) -> Iterator[tuple[int, Result]]:
        """Generate one batch; in halves if the memory does not suffice."""
        try:
            if self.placement.offload:
                with self._lock:  # components move between devices
                    results = self._attempt(self.model, plan, items, inputs, batch, callback, latent)
            else:
                results = self._attempt(self.model, plan, items, inputs, batch, callback, latent)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                field = self.model.generation_task.size_field
                raise ConfigError(f"{field}: the memory does not suffice. Request less.") from error
        else:
            yield from results.items()
            return
        middle = len(batch) // 2
        yield from self._generate(plan, items, inputs, batch[:middle], callback, latent)
        yield from self._generate(plan, items, inputs, batch[middle:], callback, latent)

    def _attempt(
        self,
        model: Model,
        plan: SamplingPlan,
        items: Sequence[Item],
        inputs: PrecomputedInputs,
        batch: Sequence[int],
        callback: StepCallback | None,
        latent: bool,
    ) -> dict[int, Result]:
        """Generate a batch; items that overflow in float16 once more, with a copy of the model in a wider dtype.

        Raises:
            LuminaError: a result is not finite in a wide dtype.
        """
        batch_items, batch_inputs = [items[index] for index in batch], inputs.rows(batch)
        guide_name, is_half = batch_items[0].request.guide_model, model.dtype == torch.float16
        if guide_name is not None and inputs.guide_model is None:
            batch_inputs = replace(batch_inputs, guide_model=self._open_guide_model(guide_name, model.dtype))
        inversion_nfe = 0
        if any(item.variation is not None for item in batch_items):
            from lumina_core.sampling.inversion import invert_for_variation

            batch_inputs, inversion_nfe = invert_for_variation(model, self.registry, batch_items, batch_inputs)
            if is_half and batch_inputs.noise is not None and not bool(batch_inputs.noise.isfinite().all()):
                return self._attempt(self._widen(), plan, items, inputs, batch, callback, latent)
        output = generate_items(model, plan, batch_items, batch_inputs, callback, batch, stop_on_nonfinite=is_half)
        metadata = output.metadata() | ({"inversion_nfe": inversion_nfe} if inversion_nfe else {})
        results: dict[int, Result] = {}
        for row, (index, item, data) in enumerate(zip(batch, batch_items, output.items(), strict=True)):
            if not bool(data.isfinite().all()):
                continue
            settings = metadata["settings"]
            fields = item.request.model_dump(
                mode="json", exclude_none=True, exclude={item.request.results_field, *settings}
            )
            cached = {} if output.cached_nfe is None else {"cached_nfe": output.cached_nfe[row]}
            loras = {"loras": list(self._lora_metadata)} if self._lora_metadata else {}
            name = {} if self.name is None else {"model": self.name}
            record = {**fields, **name, **metadata, **cached, **loras, "seed": item.request.seed}
            results[index] = Result(output.latents[row] if latent else data, record, model.generation_task)
        overflowed = [index for index in batch if index not in results]
        if overflowed and not is_half:
            raise LuminaError("model: a result is not finite. The weights are broken, or the settings are extreme.")
        if overflowed:
            results |= self._attempt(self._widen(), plan, items, inputs, overflowed, callback, latent)
        return results

    def _widen(self) -> Model:
        """Return a copy of the model in bfloat16, or in float32 if the device has no native bfloat16."""
        dtype = supported_dtype(torch.bfloat16, self.model.device)
        with self._lock:
            if self._wide_model is None:
                self._wide_model = copy.deepcopy(self.model).to(dtype)
        warnings.warn(
            f"dtype: float16 overflows with this model; generated in {str(dtype).removeprefix('torch.')}", stacklevel=4
        )
        return self._wide_model

    def _open_guide_model(self, name: str, dtype: torch.dtype) -> Model:
        """Open the guide model of a request, once, with the registry and the devices of this pipeline."""
        with self._lock:
            if (name, dtype) not in self._guide_models:
                placement = replace(self.placement, dtype=dtype)
                guide = Pipeline._open(name, self.registry, self.model.recipe.task.type, placement)
                self._guide_models[name, dtype] = guide.model
            return self._guide_models[name, dtype]


def _check_options(options: Iterable[str], fields: Iterable[str]) -> None:
    """Raise ConfigError with the nearest name unless every option is a field of the request."""
    known = [*fields, "generator", "callback", "output_type", "batch_size", "inputs"]
    for name in options:
        if name not in known[:-5]:
            raise ConfigError(f"{name}: got an unknown option, expected a field of the request{suggest(name, known)}")


def _group_key(item: Item) -> tuple[Any, ...]:
    """Return the settings that the items of a batch must share."""
    has_one_size = item.init_data is not None or item.variation is not None or item.regions is not None
    return (
        batch_key(item.request),
        tuple(sorted(item.conditions)),
        tuple(sorted(item.negative_conditions)),
        None if item.init_data is None else item.init_data.strength,
        item.variation is not None,
        item.regions is not None,
        item.size if has_one_size else None,
    )
