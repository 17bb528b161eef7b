"""Request -> data, for every modality: noise in the right places, a velocity, a solver along a grid, and back."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lumina_core.conditioning.ops import stack
from lumina_core.errors import ConfigError
from lumina_core.flow.solvers import Solution, integrate
from lumina_core.model import ComponentRegistry, Model
from lumina_core.protocols import Velocity
from lumina_core.request import Request
from lumina_core.sampling.callbacks import StepCallbackRunner, StepState
from lumina_core.sampling.inpainting import InitialState, collect_init_data, init_state
from lumina_core.sampling.inputs import (
    NO_INPUTS,
    NoiseSampler,
    PrecomputedInputs,
    apply_regional_prompts,
    encode_cond,
    encode_uncond,
    initial_noise,
)
from lumina_core.sampling.resolve import ResolvedSettings, SamplingPlan, batch_key, resolve_sampling
from lumina_core.sampling.sizes import BatchSizes, batch_sizes, check_size, common_size
from lumina_core.sampling.velocity import CFGVelocity, ModelVelocity, repeat_batch
from lumina_core.types import Condition, InitData, Tokens, stack_tokens

StepCallback = Callable[[StepState], "bool | Tensor | None"]
"""Sees a step; answers True to stop there, or other values (B, N, D) to go on with."""


@dataclass(frozen=True)
class GenerationResult:
    """What came of one batch: data (B, channels, ...) in about [-1, 1], and what it took.

    Results of several sizes stand in data as large as the largest, zeros behind them: `items()` has each in its own.
    """

    data: Tensor
    seeds: tuple[int, ...]
    nfe: int
    generation_seconds: float
    settings: ResolvedSettings
    stopped_at: float | None = None
    """The time at which it was stopped; None: it went to its end."""
    sizes: BatchSizes | None = None
    """Of the results, where they differ; None: all are as large as `data`."""

    cached_nfe: tuple[float, ...] | None = None
    """Of the evaluations, how many each result did without the blocks, a half of guidance counting a half; None: no
    step cache was asked for."""

    def items(self) -> list[Tensor]:
        """The data of each result in its own size, (channels, ...)."""
        return list(self.data) if self.sizes is None else self.sizes.items(self.data)

    def metadata(self) -> dict[str, Any]:
        """What belongs beside the data; nothing that differs when the same is asked again."""
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        stopped_at = {} if self.stopped_at is None else {"stopped_at": self.stopped_at}
        return {"nfe": self.nfe, "settings": settings, **stopped_at}


@torch.inference_mode()
def generate_batch(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], on_step: StepCallback | None = None,
    inputs: PrecomputedInputs = NO_INPUTS,
) -> GenerationResult:  # fmt: skip
    """Answer requests that agree in everything but what they say, their sizes and their seeds, in one batch.

    Item by item the result is the same as if it had been asked alone (up to the rounding of larger matrix products).

    Args:
        on_step: sees every step; may stop the way, or give other values to go on with. Of a way that was stopped the
            result is what the last step foretells: the same as its `data`.
        given: conditions, noise or data to begin from that are handed over instead of being made from the requests.

    Raises:
        ConfigError: the requests disagree in settings, or ask what the model cannot do.
    """
    start = clock.perf_counter()
    first = requests[0]
    plan = resolve_sampling(model, registry, first)
    if any(batch_key(request) != batch_key(first) for request in requests):
        raise ConfigError("requests of one batch must agree in steps, solver, grid and guidance")
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    sizes, init_data = _sizes_and_init_data(model, requests, inputs, plan)
    tokens = sizes.empty_tokens(model)
    noise_sampler = NoiseSampler(tokens, seeds, model.device)
    initial = init_state(model, init_data, sizes.padded[0], plan.schedule, initial_noise(model, inputs, noise_sampler))
    runner = StepCallbackRunner(model, initial, tokens, sizes, on_step)
    get_size = partial(common_size, sizes.padded, "results of which parts are described")
    with model.onload("conditioners"):
        cond = encode_cond(model, requests, inputs)
        uncond = None if plan.guidance.scale == 1 or inputs.guide_model else encode_uncond(model, requests, inputs)
        if inputs.cond is None:
            cond, uncond = apply_regional_prompts(model, requests, cond, uncond, get_size)
    with model.onload("backbone", "head"):
        if inputs.guide_model is not None and plan.guidance.scale != 1:
            guide_cond = encode_cond(inputs.guide_model, requests, inputs)
            if inputs.cond is None:
                guide_cond, _ = apply_regional_prompts(inputs.guide_model, requests, guide_cond, None, get_size)
            velocity: Velocity = _autoguided_velocity(inputs.guide_model, model, plan, tokens, cond, guide_cond)
        else:
            velocity = make_velocity(model, plan, tokens, cond, uncond)
        solution = _integrate(initial.constrain_velocity(velocity), initial, plan, runner, noise_sampler)
    data = runner.decode(solution.values) if runner.stop_state is None else runner.stop_state.x1_pred
    seconds = clock.perf_counter() - start
    return GenerationResult(
        data.float().cpu(), tuple(seeds), solution.nfe, seconds, plan.settings, runner.stopped_at, sizes,
        _cached_nfe(velocity, solution.nfe),
    )  # fmt: skip


def _cached_nfe(velocity: Velocity, nfe: int) -> tuple[float, ...] | None:
    stats = velocity.cache_stats() if isinstance(velocity, ModelVelocity | CFGVelocity) else None
    if stats is None:
        return None
    total, cached = stats
    return tuple(round(nfe * fraction, 2) for fraction in (cached / total).tolist())


def _sizes_and_init_data(
    model: Model, requests: Sequence[Request], inputs: PrecomputedInputs, plan: SamplingPlan
) -> tuple[BatchSizes, InitData | None]:
    """How large all results are, and what they begin from."""
    sizes = batch_sizes(model, requests)
    for size in dict.fromkeys(sizes.requested):
        check_size(model, requests[0], size)
    init_data = collect_init_data(
        model, requests, inputs, partial(common_size, sizes.requested, "results that begin from data")
    )
    if hasattr(plan.solver, "solve"):
        common_size(sizes.padded, "results of a solver that chooses its own steps")
    return (sizes if init_data is None else batch_sizes(model, requests, pad_to_valid=True)), init_data


def make_velocity(
    model: Model, plan: SamplingPlan, tokens: Tokens, cond: Condition, uncond: Condition | None
) -> Velocity:
    """The velocity of a batch at places on the CPU: of what is said alone, or guided away from `silent`."""

    def factory(condition: Condition) -> Callable[[], ModelVelocity]:
        return lambda: ModelVelocity(model, tokens, condition, plan.attention)

    if uncond is None:
        return factory(cond)()

    def batched() -> ModelVelocity:
        return ModelVelocity(model, repeat_batch(tokens), stack([cond, uncond]), plan.attention)

    return _with_mask(CFGVelocity(factory(cond), factory(uncond), batched, plan.guidance), tokens, model)


def _with_mask(velocity: CFGVelocity, tokens: Tokens, model: Model) -> CFGVelocity:
    velocity.token_mask = None if tokens.mask is None else tokens.mask.to(model.device)
    return velocity


def _autoguided_velocity(
    guide_model: Model, model: Model, plan: SamplingPlan, tokens: Tokens, cond: Condition, guide_cond: Condition
) -> Velocity:
    """Guided away from what a weaker model answers to the same words."""
    guide_items = [guide_model.tokenizer.empty(1, size) for size in tokens.sizes]
    guide_tokens = stack_tokens(guide_items)
    if tokens.values.shape != guide_tokens.values.shape:
        raise ConfigError(
            f"the weaker model's tokens are {tuple(guide_tokens.values.shape[1:])}, this model's "
            f"{tuple(tokens.values.shape[1:])}: autoguidance needs two models of the same latents and patches"
        )
    velocity = CFGVelocity(
        lambda: ModelVelocity(model, tokens, cond, plan.attention),
        lambda: ModelVelocity(guide_model, guide_tokens, guide_cond, plan.attention),
        None,
        plan.guidance,
    )
    return _with_mask(velocity, tokens, model)


def _integrate(
    velocity: Velocity,
    initial: InitialState,
    plan: SamplingPlan,
    runner: StepCallbackRunner,
    noise_sampler: NoiseSampler,
) -> Solution:
    if len(initial.schedule) == 1:  # a strength of 0: nothing is to change
        return Solution(initial.x, 0, 0)
    runner.steps = None if plan.settings.steps is None else len(initial.schedule) - 1
    return integrate(velocity, initial.x, initial.schedule, plan.solver, runner, noise_sampler, plan.max_nfe)
