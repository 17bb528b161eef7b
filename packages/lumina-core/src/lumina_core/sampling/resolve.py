"""How a request goes from noise to data: its settings, filled up from the recipe, and the parts that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lumina_core.config import ComponentSpec, parse_component
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.flow.solvers import Solver, steps_for_nfe
from lumina_core.model import ComponentRegistry, Model, build_component
from lumina_core.protocols import BlockCache, ContextDrop, RopeScaling, TimeSchedule
from lumina_core.request import Request
from lumina_core.sampling.velocity import AttentionOverrides, GuidanceConfig
from lumina_core.types import Size, Tokens


@dataclass(frozen=True)
class ResolvedSettings:
    """How the way from noise to data was gone, in full; None: not in use."""

    steps: int | None
    solver: str
    schedule: str | None
    guidance_scale: float
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    rope_scaling: str | None = None
    base_sequence_length: int | None = None
    context_drop: str | None = None
    block_cache: str | None = None


@dataclass(frozen=True)
class SamplingPlan:
    """The parts of a way, ready to go.

    Attributes:
        limit: evaluations that a solver may ask for which chooses its own steps; None: any number.
    """

    settings: ResolvedSettings
    solver: Solver
    schedule: Tensor
    guidance: GuidanceConfig
    attention: AttentionOverrides
    max_nfe: int | None


def resolve_sampling(model: Model, registry: ComponentRegistry, request: Request) -> SamplingPlan:
    """The way of a request.

    Raises:
        ConfigError: settings are out of range, contradict each other, or the model cannot do them.
        PluginError: a part is not there.
    """
    solver, name = _resolve_solver(model, registry, request)
    schedule_spec, schedule, max_nfe = _resolve_schedule(model, registry, request, solver, name)
    guidance, adaptive = _resolve_guidance(model, request), hasattr(solver, "solve")
    rope_scaling, base_sequence_length = _rope_scaling_spec(model, request), _base_sequence_length(model, request)
    context_drop, block_cache = _context_drop_spec(model, request), _block_cache_spec(model, request)
    settings = ResolvedSettings(
        steps=None if adaptive else len(schedule) - 1,
        solver=name,
        schedule=None if adaptive else _recorded_name(request.schedule, schedule_spec),
        guidance_scale=guidance.scale,
        guidance_interval=guidance.interval,
        guidance_rescale=guidance.rescale or None,
        rope_scaling=None if rope_scaling is None else _recorded_name(request.rope_scaling, rope_scaling),
        base_sequence_length=base_sequence_length,
        context_drop=None if context_drop is None else _recorded_name(request.context_drop, context_drop),
        block_cache=None if block_cache is None else _recorded_name(request.block_cache, block_cache),
    )
    return SamplingPlan(
        settings,
        solver,
        schedule,
        guidance,
        _attention_overrides(model, registry, request, base_sequence_length),
        max_nfe,
    )


def batch_key(request: Request) -> tuple[Any, ...]:
    """All in which requests of one batch must agree, whatever their sizes."""
    return tuple(getattr(request, field) for field in Request.model_fields if field not in ("seed", "count"))


def empty_tokens(model: Model, size: Size, batch: int) -> Tokens:
    """Tokens of zeros at the places of data of this extent, on the CPU.

    Raises:
        ConfigError: the model cannot do this extent; the message names the nearest that it can.
    """
    factors = model.autoencoder.downsample_factor
    indivisible = [(side, step) for side, step in zip(size, factors, strict=True) if side % step]
    if indivisible:
        side, step = indivisible[0]
        raise ConfigError(
            f"a side of {side} is no multiple of the autoencoder's {step}; try {max(1, round(side / step)) * step}"
        )
    try:
        return model.tokenizer.empty(batch, tuple(side // step for side, step in zip(size, factors, strict=True)))
    except ShapeError as error:
        size_text = " x ".join(map(str, size))
        hint = f" (a latent is {' x '.join(map(str, factors))} times smaller)" if any(s > 1 for s in factors) else ""
        raise ConfigError(f"this model cannot do {size_text}: {error}{hint}") from error


def _resolve_solver(model: Model, registry: ComponentRegistry, request: Request) -> tuple[Solver, str]:
    text = request.solver if request.solver is not None else model.recipe.sampling.solver
    spec = parse_component(text)
    component = registry.find("solver", spec.type)
    if not hasattr(component, "Config"):
        if spec.options:
            raise ConfigError(f"the solver {spec.type} takes no options; got {', '.join(spec.options)}")
        return component, spec.type  # a plain function
    path = getattr(getattr(model.objective, "config", None), "path", None)
    solver: Solver = build_component(registry, "solver", spec, **({} if path is None else {"path": path}))
    return solver, text


def _resolve_schedule(
    model: Model, registry: ComponentRegistry, request: Request, solver: Solver, name: str
) -> tuple[ComponentSpec, Tensor, int | None]:
    """The grid's name, the grid, and the evaluations allowed to a solver that chooses its own steps."""
    defaults, nfe, max_nfe = model.recipe.sampling, request.nfe, None
    if nfe is not None and request.steps is not None:
        raise ConfigError("steps and nfe were both given; one follows from the other, give one of them")
    # draws and grids are one kind of part; on the command line `shift` means the grid
    spec = resolve_component(request.schedule, defaults.schedule, "_schedule")
    if spec.type.endswith("fitted_schedule") and not spec.options:
        spec = ComponentSpec(type=spec.type, values=list(defaults.fitted_schedule))
    schedule: TimeSchedule = build_component(registry, "schedule", spec)
    steps = request.steps or getattr(schedule, "steps", None) or defaults.steps
    if nfe is not None and hasattr(solver, "solve"):
        max_nfe = nfe
    elif nfe is not None:
        steps = steps_for_nfe(solver, nfe, name)
    return spec, schedule(steps), max_nfe


def _resolve_guidance(model: Model, request: Request) -> GuidanceConfig:
    defaults = model.recipe.sampling
    channels = defaults.guidance_channels
    # the numbers of a token are ordered by channel first
    dims_per_channel = model.tokenizer.width // model.autoencoder.channels
    return GuidanceConfig(
        defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        None if channels is None else slice(0, channels * dims_per_channel),
        defaults.guidance_rescale if request.guidance_rescale is None else request.guidance_rescale,
        defaults.guidance_interval if request.guidance_interval is None else request.guidance_interval,
        defaults.cfg_batching if request.cfg_batching is None else request.cfg_batching,
    )


def resolve_component(text: str | None, default: ComponentSpec, suffix: str = "") -> ComponentSpec:
    """The part that a request names, or the recipe's; the recipe's options serve where only its name is said."""
    if text is None:
        return default
    spec = parse_component(text)
    if not spec.type.endswith(suffix):
        spec = spec.model_copy(update={"type": spec.type + suffix})
    same = spec.type in (default.type, default.type.rpartition(".")[2])
    return default if same and not spec.options else spec


def _recorded_name(text: str | None, spec: ComponentSpec) -> str:
    """A part's name, with the options that the request gave it: what is recorded must lead to the same result."""
    return spec.type if text is None or ":" not in text else f"{spec.type}:{text.partition(':')[2]}"


def _rope_scaling_spec(model: Model, request: Request) -> ComponentSpec | None:
    default = model.recipe.sampling.rope_scaling
    return (
        default
        if request.rope_scaling is None
        else resolve_component(request.rope_scaling, default or ComponentSpec(type="core.none"))
    )


def _context_drop_spec(model: Model, request: Request) -> ComponentSpec | None:
    default = model.recipe.sampling.context_drop
    if request.context_drop == "none":
        return None
    return (
        default
        if request.context_drop is None
        else resolve_component(request.context_drop, default or ComponentSpec(type="core.time_aware"))
    )


def _block_cache_spec(model: Model, request: Request) -> ComponentSpec | None:
    default = model.recipe.sampling.block_cache
    if request.block_cache == "none":
        return None
    return (
        default
        if request.block_cache is None
        else resolve_component(request.block_cache, default or ComponentSpec(type="core.teacache_like"))
    )


def _base_sequence_length(model: Model, request: Request) -> int | None:
    length = (
        model.recipe.sampling.base_sequence_length
        if request.base_sequence_length is None
        else request.base_sequence_length
    )
    if length == 1:
        raise ConfigError(
            "base_sequence_length: 1 token in training has no logarithm to divide by; wanted 2 or more, or 0 for off"
        )
    return length or None


def _attention_overrides(
    model: Model, registry: ComponentRegistry, request: Request, base_sequence_length: int | None
) -> AttentionOverrides:
    """What fits attention to the canvas of a request, beside that of training."""
    scaling_spec, drop_spec = _rope_scaling_spec(model, request), _context_drop_spec(model, request)
    context_drop: ContextDrop | None = (
        None if drop_spec is None else build_component(registry, "context_drop", drop_spec)
    )
    cache_spec = _block_cache_spec(model, request)
    block_cache: BlockCache | None = (
        None if cache_spec is None else build_component(registry, "block_cache", cache_spec)
    )
    if scaling_spec is None:
        return AttentionOverrides(
            base_sequence_length=base_sequence_length, context_drop=context_drop, block_cache=block_cache
        )
    rope_scaling: RopeScaling = build_component(registry, "rope_scaling", scaling_spec)
    train_size = _train_size(model, rope_scaling, len(model.generation_task.size(request)))
    return AttentionOverrides(
        rope_scaling,
        None if train_size is None else empty_tokens(model, train_size, 1),
        base_sequence_length,
        context_drop,
        block_cache,
    )


def _train_size(model: Model, rope_scaling: RopeScaling, num_dims: int) -> Size | None:
    if rope_scaling.train_size is None:
        return model.task.train_size()
    train_size = rope_scaling.train_size * num_dims if len(rope_scaling.train_size) == 1 else rope_scaling.train_size
    if len(train_size) != num_dims:
        raise ConfigError(f"rope_scaling: train_size has {len(train_size)} sizes; this model's data has {num_dims}")
    return train_size
