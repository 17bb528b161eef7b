"""Resolved sampling: the settings of a request, completed by the recipe, the components they name, and size limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec, parse_component
from lumina_core.device import available_memory
from lumina_core.errors import ConfigError
from lumina_core.flow.schedules import validate_schedule
from lumina_core.flow.solvers import as_solver, steps_for_nfe
from lumina_core.model import ComponentRegistry, Model, build_component, empty_tokens
from lumina_core.protocols import (
    Guidance,
    RopeScaling,
    Solver,
    SolverStep,
    SupportsSteps,
    TimeSchedule,
    name_of,
    options_of,
)
from lumina_core.request import Request
from lumina_core.sampling.velocity import AttentionOverrides, GuidanceConfig
from lumina_core.types import Size

ScheduleLike = Callable[[int], "Tensor | Sequence[float]"] | Sequence[float] | Tensor
"""A function steps -> (steps + 1,) times, or the times."""


@dataclass(frozen=True)
class ResolvedSettings:
    """Sampling settings that were used; None: not used."""

    steps: int | None
    solver: str
    schedule: str | None
    guidance_scale: float
    guidance: str | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    rope_scaling: str | None = None
    base_sequence_length: int | None = None
    context_drop: str | None = None
    block_cache: str | None = None


@dataclass(frozen=True)
class SamplingPlan:
    """Components of a request.

    Attributes:
        settings: their names and values.
        solver: integrates the velocity.
        schedule: (steps + 1,) times.
        guidance: settings of guidance.
        attention: changes to attention.
        max_nfe: largest number of evaluations for an adaptive solver; None: no limit.
    """

    settings: ResolvedSettings
    solver: Solver
    schedule: Tensor
    guidance: GuidanceConfig
    attention: AttentionOverrides
    max_nfe: int | None


@dataclass(frozen=True)
class Overrides:
    """Components that are passed as Python objects instead of by name.

    Attributes:
        solver: step function or solver; None: by name.
        schedule: function or times; None: by name.
    """

    solver: Solver | SolverStep | None = None
    schedule: ScheduleLike | None = None


NO_OVERRIDES = Overrides()


def resolve_sampling(
    model: Model, registry: ComponentRegistry, request: Request, overrides: Overrides = NO_OVERRIDES
) -> SamplingPlan:
    """Resolve the settings of a request.

    Raises:
        ConfigError: settings are out of range or contradict each other, or the model does not support them.
        PluginError: a component is not installed.
    """
    defaults = model.recipe.sampling
    solver, solver_name = _resolve_solver(model, registry, request, overrides)
    schedule, schedule_name, max_nfe = _resolve_schedule(model, registry, request, overrides, solver, solver_name)
    guidance, guidance_name = _resolve_guidance(model, registry, request)
    rope_scaling = _optional_component(request.rope_scaling, defaults.rope_scaling, "core.none")
    context_drop = _optional_component(request.context_drop, defaults.context_drop, "core.time_aware", off="none")
    block_cache = _optional_component(request.block_cache, defaults.block_cache, "core.teacache_like", off="none")
    base_length = defaults.base_sequence_length
    base_length = (base_length if request.base_sequence_length is None else request.base_sequence_length) or None
    if base_length == 1:
        raise ConfigError("base_sequence_length: got 1, expected 2 or more, or 0 for off.")
    scaling: RopeScaling | None = None
    train_size: Size | None = None
    if rope_scaling is not None:
        scaling = build_component(registry, "rope_scaling", rope_scaling)
        train_size = _train_size(model, scaling, len(model.generation_task.size(request)))
    attention = AttentionOverrides(
        rope_scaling=scaling,
        train_tokens=None if train_size is None else empty_tokens(model, train_size, 1),
        base_sequence_length=base_length,
        context_drop=None if context_drop is None else build_component(registry, "context_drop", context_drop),
        block_cache=None if block_cache is None else build_component(registry, "block_cache", block_cache),
    )
    settings = ResolvedSettings(
        steps=None if solver.adaptive else len(schedule) - 1,
        solver=solver_name,
        schedule=None if solver.adaptive else schedule_name,
        guidance_scale=guidance.scale,
        guidance=None if guidance_name in ("core.cfg", "cfg") else guidance_name,
        guidance_interval=guidance.interval,
        guidance_rescale=guidance.rescale or None,
        rope_scaling=_recorded_name(request.rope_scaling, rope_scaling),
        base_sequence_length=base_length,
        context_drop=_recorded_name(request.context_drop, context_drop),
        block_cache=_recorded_name(request.block_cache, block_cache),
    )
    return SamplingPlan(settings, solver, schedule, guidance, attention, max_nfe)


def batch_key(request: Request) -> tuple[Any, ...]:
    """Return the settings in which the requests of a batch must agree."""
    return tuple(getattr(request, field) for field in Request.model_fields if field not in ("seed", "count"))


def resolve_component(text: str | None, default: ComponentSpec, suffix: str = "") -> ComponentSpec:
    """Return the component of a request, or the recipe's, whose options apply if the request has only its name."""
    if text is None:
        return default
    spec = parse_component(text)
    if not spec.type.endswith(suffix):
        spec = spec.model_copy(update={"type": spec.type + suffix})
    same = spec.type in (default.type, default.type.rpartition(".")[2])
    return default if same and not spec.options else spec


def _optional_component(
    text: str | None, default: ComponentSpec | None, fallback: str, off: str | None = None
) -> ComponentSpec | None:
    """Resolve a component that a recipe may leave out, and that a request switches off by the name `off`."""
    if text is None or text == off:
        return default if text is None else None
    return resolve_component(text, default or ComponentSpec(type=fallback))


def _recorded_name(text: str | None, spec: ComponentSpec | None) -> str | None:
    """Return a component's name with the options of the request, so that the metadata reproduce the result."""
    if spec is None:
        return None
    return spec.type if text is None or ":" not in text else f"{spec.type}:{text.partition(':')[2]}"


def _resolve_solver(
    model: Model, registry: ComponentRegistry, request: Request, overrides: Overrides
) -> tuple[Solver, str]:
    if overrides.solver is not None:
        solver = as_solver(overrides.solver)
        return solver, name_of(overrides.solver)
    text = model.recipe.sampling.solver if request.solver is None else request.solver
    spec = parse_component(text)
    component = registry.find("solver", spec.type)
    if isinstance(component, type):
        path = options_of(model.objective).get("path")
        return build_component(registry, "solver", spec, **({} if path is None else {"path": path})), text
    if spec.options:
        raise ConfigError(f"solver: got options {', '.join(spec.options)} for {spec.type}, expected none.")
    return as_solver(component), spec.type


def _resolve_schedule(
    model: Model, registry: ComponentRegistry, request: Request, overrides: Overrides, solver: Solver, solver_name: str
) -> tuple[Tensor, str | None, int | None]:
    """Return the times, the name of the schedule, and the largest number of evaluations of an adaptive solver."""
    defaults, nfe, given = model.recipe.sampling, request.nfe, overrides.schedule
    if nfe is not None and request.steps is not None:
        raise ConfigError("nfe: got it together with steps, expected one of them.")
    steps = request.steps
    if nfe is not None and not solver.adaptive:
        steps = steps_for_nfe(solver, nfe, solver_name)
    max_nfe = nfe if solver.adaptive else None
    if given is not None and not callable(given):
        times = _as_times(given)
        if steps is not None and steps != len(times) - 1:
            raise ConfigError(
                f"steps: got {steps}, expected {len(times) - 1}, the steps of the schedule. Leave steps out."
            )
        return times, f"custom:values={times.tolist()}", max_nfe
    if given is not None:
        return _as_times(given(steps or defaults.steps)), name_of(given), max_nfe
    # time samplers and schedules share names; `shift` means the schedule here
    spec = resolve_component(request.schedule, defaults.schedule, "_schedule")
    if spec.type.endswith("fitted_schedule") and not spec.options:
        spec = ComponentSpec(type=spec.type, values=list(defaults.fitted_schedule))
    schedule: TimeSchedule = build_component(registry, "schedule", spec)
    steps = steps or (schedule.steps if isinstance(schedule, SupportsSteps) else defaults.steps)
    return schedule(steps), _recorded_name(request.schedule, spec), max_nfe


def _as_times(times: Tensor | Sequence[float]) -> Tensor:
    try:
        tensor = torch.as_tensor(times, dtype=torch.float64, device="cpu").flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"schedule: got {times!r}, expected a name, times that rise from 0 to 1, or a function steps -> times."
        ) from error
    if len(tensor) < 2:
        raise ConfigError(f"schedule: got {times!r}, expected at least two times.")
    return validate_schedule(tensor)


def _resolve_guidance(model: Model, registry: ComponentRegistry, request: Request) -> tuple[GuidanceConfig, str]:
    defaults = model.recipe.sampling
    text = defaults.guidance if request.guidance is None else request.guidance
    spec = parse_component(text)
    function: Guidance = registry.find("guidance", spec.type)
    if isinstance(function, type):
        function = build_component(registry, "guidance", spec)
    elif spec.options:
        raise ConfigError(f"guidance: got options {', '.join(spec.options)} for {spec.type}, expected none.")
    channels = defaults.guidance_channels
    # the numbers of a token are ordered by channel first
    dims_per_channel = model.tokenizer.width // model.autoencoder.channels
    config = GuidanceConfig(
        defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        function,
        None if channels is None else slice(0, channels * dims_per_channel),
        defaults.guidance_rescale if request.guidance_rescale is None else request.guidance_rescale,
        defaults.guidance_interval if request.guidance_interval is None else request.guidance_interval,
        defaults.cfg_batching if request.cfg_batching is None else request.cfg_batching,
    )
    return config, text


def _train_size(model: Model, rope_scaling: RopeScaling, num_dims: int) -> Size | None:
    if rope_scaling.train_size is None:
        return model.task.train_size()
    train_size = rope_scaling.train_size * num_dims if len(rope_scaling.train_size) == 1 else rope_scaling.train_size
    if len(train_size) != num_dims:
        raise ConfigError(
            f"rope_scaling.train_size: got {len(train_size)} sizes, expected {num_dims}, as the data has."
        )
    return train_size


def round_up_size(model: Model, size: Size) -> Size:
    """Return the smallest size from `size` on that the autoencoder and the tokenizer of a model support."""
    patch_size = model.tokenizer.patch_size or (1,) * len(size)
    steps = [factor * cells for factor, cells in zip(model.autoencoder.downsample_factor, patch_size, strict=True)]
    return tuple(-(-side // step) * step for side, step in zip(size, steps, strict=True))


MAX_TOKEN_RATIO = 64
"""Largest number of tokens over that of training, unless the request allows more: eight times the side of an image."""
ADVISE_TOKEN_RATIO = 4
"""Number of tokens over that of training above which a warning advises to scale positions, unless they are."""
WARN_TOKEN_RATIO = 1
"""Number of tokens over that of training above which there is a warning."""


def check_size(model: Model, request: Request, size: Size) -> None:
    """Refuse sizes that are far larger than in training (our own proposal).

    Raises:
        ConfigError: there are more than `max_token_ratio` times the tokens of training, or the memory does not suffice.
    """
    counts = _token_counts(model, size)
    if counts is None:
        return
    tokens, train_tokens = counts
    needed, available = estimate_memory(model, tokens, size), available_memory(model.device)
    ratio, max_ratio = -(-tokens // train_tokens), request.max_token_ratio or MAX_TOKEN_RATIO
    description = (
        f"{model.generation_task.size_field}: got {model.task.format_size(size)}, which is {_format_count(tokens)} "
        f"tokens, {_format_count(ratio)} times the {train_tokens} of training, and needs about "
        f"{_format_bytes(needed)} of memory"
    )
    if available is not None and needed > available:
        raise ConfigError(f"{description}, expected at most {_format_bytes(available)}. Request less.")
    if tokens > max_ratio * train_tokens:
        raise ConfigError(
            f"{description}, expected at most {max_ratio} times. Request less, or allow it: max_token_ratio={ratio}"
        )


def size_warning(model: Model, request: Request) -> str | None:
    """Return a warning if the requested size is larger than in training; None: no warning."""
    size = model.generation_task.size(request)
    counts = _token_counts(model, size)
    is_refused = not model.generation_task.pads_to_valid_size and round_up_size(model, size) != size
    if counts is None or is_refused:
        return None
    tokens, train_tokens = counts
    needed = estimate_memory(model, tokens, size)
    is_noteworthy = (
        WARN_TOKEN_RATIO * train_tokens < tokens <= (request.max_token_ratio or MAX_TOKEN_RATIO) * train_tokens
    )
    if not is_noteworthy or needed > (available_memory(model.device) or math.inf):
        return None  # a size that is refused needs no warning
    is_unscaled = request.rope_scaling is None and model.recipe.sampling.rope_scaling is None
    task = model.generation_task
    trained = task.format_size(task.train_size() or ())
    advice = f"; results are best at {trained}"
    if is_unscaled and tokens > ADVISE_TOKEN_RATIO * train_tokens:
        advice += "; positions are not scaled: set rope_scaling, or request less"
    ratio = tokens / train_tokens
    ratio_text = f"{ratio:.3g}" if ratio < MAX_TOKEN_RATIO else f"{ratio:.0f}"
    memory_text = f", and needs about {_format_bytes(needed)} of memory" if ratio > MAX_TOKEN_RATIO else ""
    return (
        f"{task.size_field}: {task.format_size(size)} is {ratio_text} times the tokens of training{memory_text}{advice}"
    )


def max_batch_size(model: Model, sizes: Sequence[Size]) -> int | None:
    """Return how many results of these sizes fit into half of the available memory, at least 1; None: unknown."""
    available = available_memory(model.device)
    counts = {size: _token_counts(model, size) for size in dict.fromkeys(sizes)}
    needed = [estimate_memory(model, count[0], size) for size, count in counts.items() if count is not None]
    return None if available is None or not needed else max(1, available // (2 * max(1, *needed)))


def estimate_memory(model: Model, tokens: int, size: Size) -> int:
    """Return the bytes that one result needs besides the weights, roughly.

    Our own estimate: 32 float32 numbers of the hidden size per token (the activations of a block, twice for guidance),
    and 64 for each number of the data (the activations of the decoder).
    """
    hidden_size = int(options_of(model.backbone).get("hidden_size", 0))
    return 4 * (32 * tokens * hidden_size + 64 * prod(size))


def _token_counts(model: Model, size: Size) -> tuple[int, int] | None:
    """Return the number of tokens of a size and of training; None if the size of training is not available."""
    train_size, patch_size = model.task.train_size(), model.tokenizer.patch_size
    if train_size is None or patch_size is None:
        return None
    samples_per_token = prod(patch_size) * prod(model.autoencoder.downsample_factor)
    tokens, train_tokens = (prod(round_up_size(model, s)) // samples_per_token for s in (size, train_size))
    return tokens, max(1, train_tokens)


def _format_count(number: int) -> str:
    return f"{number}" if number < 10**6 else f"{number:.2g}"


def _format_bytes(count: int) -> str:
    """Format a number of bytes with two digits, in the largest unit that fits."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.2g} {unit}" if not 99 <= count / size < 1e6 else f"{count / size:.0f} {unit}"
    return f"{max(1, round(count / 1e6))} MB"
