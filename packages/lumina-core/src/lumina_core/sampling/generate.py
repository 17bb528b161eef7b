"""Generation of one batch: noise -> velocity -> solver -> decoder; and the state that step callbacks receive."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.path import convert_prediction
from lumina_core.flow.solvers import Solution, StopIntegrationError, integrate
from lumina_core.model import ComponentRegistry, Model, empty_tokens
from lumina_core.protocols import options_of
from lumina_core.request import Request
from lumina_core.sampling.inputs import (
    NO_INPUTS,
    InitialState,
    Item,
    NoiseSampler,
    PrecomputedInputs,
    apply_regional_prompts,
    batch_init_data,
    encode_cond,
    encode_uncond,
    expand_requests,
    init_state,
    initial_noise,
)
from lumina_core.sampling.resolve import (
    ResolvedSettings,
    SamplingPlan,
    batch_key,
    check_size,
    resolve_sampling,
    round_up_size,
)
from lumina_core.sampling.velocity import SamplingVelocity, make_velocity
from lumina_core.types import Condition, Size, Tokens, stack_tokens

StepCallback = Callable[["StepState"], "Tensor | None"]
"""Called after every step. It returns another x_t (B, N, D) to continue from, or None."""


@dataclass(frozen=True)
class BatchSizes:
    """Sizes of the results of a batch.

    Attributes:
        requested: size of each result.
        padded: size that the model generates for it, at least as large; the rest is cropped.
    """

    requested: tuple[Size, ...]
    padded: tuple[Size, ...]

    @property
    def uniform(self) -> bool:
        """Whether all results are generated in one size."""
        return len(set(self.padded)) == 1

    def empty_tokens(self, model: Model) -> Tokens:
        """Return empty tokens on the CPU; shorter items are padded at the end and masked.

        Raises:
            ConfigError: the model does not support one of the sizes.
        """
        if self.uniform:
            return empty_tokens(model, self.padded[0], len(self.padded))
        return stack_tokens([empty_tokens(model, size, 1) for size in self.padded])

    def unpatchify(self, model: Model, tokens: Tokens) -> list[Tensor]:
        """Return the latent (channels, ...) of each item."""
        if self.uniform:
            return list(model.tokenizer.unpatchify(tokens))
        return [model.tokenizer.unpatchify(item)[0] for item in tokens.items()]

    def decode(self, model: Model, tokens: Tokens) -> Tensor:
        """Decode tokens to data (B, channels, ...) as large as the largest result, zeros behind smaller ones."""
        if self.uniform:
            return self._crop(model.decode_latent(model.tokenizer.unpatchify(tokens)))
        items = tokens.items()
        decoded: dict[int, Tensor] = {}
        for size in dict.fromkeys(self.padded):
            rows = [row for row, padded_size in enumerate(self.padded) if padded_size == size]
            latent = model.tokenizer.unpatchify(stack_tokens([items[row] for row in rows]))
            decoded |= zip(rows, model.decode_latent(latent), strict=True)
        return self._crop(_pad_items([decoded[row] for row in range(len(items))]))

    def items(self, data: Tensor) -> list[Tensor]:
        """Return each item of data (B, channels, ...) in its own size."""
        return [_crop_to(item, size) for item, size in zip(data, self.requested, strict=True)]

    def _crop(self, data: Tensor) -> Tensor:
        if len(set(self.requested)) > 1:
            return _pad_items(self.items(data))
        return data[(slice(None), slice(None), *map(slice, self.requested[0]))]


def batch_sizes(model: Model, items: Sequence[Item], pad_to_valid: bool = False) -> BatchSizes:
    """Return the sizes of the results of a batch.

    Args:
        model: the model.
        items: the results to generate.
        pad_to_valid: pad each size to the next one that the model supports, even if the task does not do so
            (`pads_to_valid_size`).
    """
    sizes = tuple(item.size for item in items)
    if not (pad_to_valid or model.generation_task.pads_to_valid_size):
        return BatchSizes(sizes, sizes)
    return BatchSizes(sizes, tuple(round_up_size(model, size) for size in sizes))


def common_size(sizes: Sequence[Size], what: str) -> Size:
    """Return the size of all results.

    Raises:
        ConfigError: there are several.
    """
    if len(set(sizes)) > 1:
        listed = ", ".join("x".join(map(str, size)) for size in dict.fromkeys(sizes))
        raise ConfigError(f"size: got {listed} in one batch, expected one size for {what}.")
    return sizes[0]


def _crop_to(item: Tensor, size: Size) -> Tensor:
    return item[(slice(None), *map(slice, size))]


def _pad_items(items: Sequence[Tensor]) -> Tensor:
    shape = [max(sides) for sides in zip(*(item.shape for item in items), strict=True)]
    batch = items[0].new_zeros(len(items), *shape)
    for row, item in zip(batch, items, strict=True):
        _crop_to(row, tuple(item.shape[1:])).copy_(item)
    return batch


class StepState:
    """State passed to step callbacks.

    Attributes:
        step: number of steps taken.
        steps: number of steps in total; None for a solver that chooses its own steps.
        time: time reached, 0 noise to 1 data.
        x_t: (B, N, D) tokens at this time.
        indices: for each of the B items its index among the results of the call.
        stopped: whether `stop` was called.
    """

    def __init__(
        self,
        step: int,
        steps: int | None,
        time: float,
        x_t: Tensor,
        indices: Sequence[int],
        sizes: BatchSizes,
        predict_x1: Callable[[], Tensor],
    ) -> None:
        self.step, self.steps, self.time, self.x_t, self.indices = step, steps, time, x_t, tuple(indices)
        self.stopped = False
        self._sizes, self._predict_x1 = sizes, predict_x1

    @cached_property
    def x1_pred(self) -> Tensor:
        """(B, channels, ...) in about [-1, 1]: decoded prediction of the data, from the velocity of the last step.

        It costs a decoding and no evaluation of the network. After the last step it is the result.
        """
        return self._predict_x1()

    def items(self) -> list[Tensor]:
        """Return the predicted data of each item in its own size, (channels, ...), float32 on the CPU."""
        return self._sizes.items(self.x1_pred.float().cpu())

    def stop(self) -> None:
        """Stop sampling after this step. The result is then `x1_pred`, and a returned x_t is not used."""
        self.stopped = True


class StepCallbackRunner:
    """Step callback of an integration: sets fixed values, and calls the user's callback.

    Attributes:
        stop_state: state of the step at which the callback stopped; None: not stopped.
        stop_values: predicted tokens (B, N, D) of that step.
    """

    def __init__(
        self,
        model: Model,
        plan: SamplingPlan,
        initial: InitialState,
        tokens: Tokens,
        sizes: BatchSizes,
        callback: StepCallback | None,
        indices: Sequence[int],
        stop_on_nonfinite: bool,
    ) -> None:
        self.model, self.initial, self.tokens, self.sizes = model, initial, tokens, sizes
        self.callback, self.indices, self.stop_on_nonfinite = callback, indices, stop_on_nonfinite
        self.steps = None if plan.solver.adaptive else len(initial.schedule) - 1
        self.stop_state: StepState | None = None
        self.stop_values: Tensor | None = None
        self._previous = (float(initial.schedule[0]), initial.x)

    def __call__(self, step: int, time: float, values: Tensor) -> Tensor | None:
        if self.stop_on_nonfinite and not bool(values.flatten(1).isfinite().all(dim=1).any()):
            raise StopIntegrationError
        constrained, replaced = self.initial.constrain_values(values, time), None
        if self.callback is not None:
            predict_x1 = partial(self._predict_x1, constrained, time, *self._previous)
            state = StepState(step, self.steps, time, constrained, self.indices, self.sizes, predict_x1)
            replaced = self.callback(state)
            if replaced is not None and not (isinstance(replaced, Tensor) and replaced.shape == values.shape):
                got = f"a tensor {tuple(replaced.shape)}" if isinstance(replaced, Tensor) else repr(replaced)
                raise ConfigError(
                    f"callback: got the return value {got}, expected None or another x_t, {tuple(values.shape)}. "
                    "Call state.stop() to stop."
                )
            if state.stopped:
                self.stop_state = state
                self.stop_values = self.predict_x1_tokens(constrained, time, *self._previous)
                raise StopIntegrationError
        if replaced is None and self.steps is not None and self.initial.constraint is not None:
            replaced = constrained
        self._previous = (time, constrained if replaced is None else replaced)
        return replaced

    def decode(self, values: Tensor) -> Tensor:
        """Decode tokens (B, N, D) at time 1 to data (B, channels, ...), with the preserved region of initial data."""
        with torch.inference_mode(), self.model.onload("autoencoder"):
            data = self.sizes.decode(self.model, self.tokens.with_values(values))
        return self.initial.blend_kept(data)

    def predict_x1_tokens(self, x: Tensor, time: float, previous_time: float, previous_x: Tensor) -> Tensor:
        """Predict the tokens (B, N, D) at time 1 from the velocity of the last step."""
        path = self.model.path
        if path is None or time == 1:
            return x
        velocity = (x - previous_x) / (time - previous_time)
        min_coef = float(options_of(self.model.objective).get("min_coef", 0.05))
        return convert_prediction(path, velocity, x, x.new_full((len(x),), time), "velocity", "data", min_coef)

    def _predict_x1(self, x: Tensor, time: float, previous_time: float, previous_x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.decode(self.predict_x1_tokens(x, time, previous_time, previous_x))


@dataclass(frozen=True)
class GenerationResult:
    """Results of one batch.

    Attributes:
        data: (B, channels, ...) in about [-1, 1], float32 on the CPU. Results of several sizes are as large as the
            largest, zeros behind smaller ones; `items()` returns each in its own size.
        seeds: seed of each result.
        nfe: number of evaluations.
        generation_seconds: run time.
        settings: settings that were used.
        sizes: sizes of the results.
        stopped_at: time at which a callback stopped; None: not stopped.
        cached_nfe: for each result the number of evaluations with skipped blocks, a half of guidance counted as a half;
            None: no block cache.
        latents: latent (channels, ...) of each result, float32 on the CPU.
    """

    data: Tensor
    seeds: tuple[int, ...]
    nfe: int
    generation_seconds: float
    settings: ResolvedSettings
    sizes: BatchSizes
    stopped_at: float | None = None
    cached_nfe: tuple[float, ...] | None = None
    latents: tuple[Tensor, ...] = ()

    def items(self) -> list[Tensor]:
        """Return the data of each result in its own size, (channels, ...)."""
        return self.sizes.items(self.data)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of all results; equal for equal requests."""
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        stopped_at = {} if self.stopped_at is None else {"stopped_at": self.stopped_at}
        return {"nfe": self.nfe, "settings": settings, **stopped_at}


def generate_batch(
    model: Model,
    registry: ComponentRegistry,
    requests: Sequence[Request],
    callback: StepCallback | None = None,
    inputs: PrecomputedInputs = NO_INPUTS,
) -> GenerationResult:
    """Generate the results of requests in one batch; `Pipeline` groups and splits requests into such batches.

    Up to the rounding of larger matrix products, each result is the same as in a batch of its own.

    Args:
        model: the model.
        registry: source of solvers, schedules and other components.
        requests: requests that differ only in prompts, sizes and seeds.
        callback: called after every step.
        inputs: conditions, noise or initial data, instead of those made from the requests.

    Raises:
        ConfigError: the requests disagree in settings, or the model does not support them.
    """
    if any(batch_key(request) != batch_key(requests[0]) for request in requests):
        raise ConfigError(
            "requests: got several settings in one batch, expected equal steps, solver, schedule and guidance."
        )
    plan = resolve_sampling(model, registry, requests[0])
    items = expand_requests(model.generation_task, requests)
    return generate_items(model, plan, items, inputs.per_result(items), callback)


@torch.inference_mode()
def generate_items(
    model: Model,
    plan: SamplingPlan,
    items: Sequence[Item],
    inputs: PrecomputedInputs = NO_INPUTS,
    callback: StepCallback | None = None,
    indices: Sequence[int] | None = None,
    stop_on_nonfinite: bool = False,
) -> GenerationResult:
    """Generate items that share a plan.

    Args:
        model: the model.
        plan: solver, schedule, guidance and attention.
        items: the results to generate.
        inputs: inputs that are passed in, one per item.
        callback: called after every step.
        indices: passed to the callback; None: 0, 1, 2 and so on.
        stop_on_nonfinite: stop as soon as no item is finite (overflow of float16).
    """
    start = clock.perf_counter()
    sizes, init_data = batch_sizes(model, items), None
    for size in dict.fromkeys(sizes.requested):
        check_size(model, items[0].request, size)
    init_data = batch_init_data(items, inputs, partial(common_size, sizes.requested, "initial data"))
    if plan.solver.adaptive:
        common_size(sizes.padded, "a solver that chooses its own steps")
    if init_data is not None:
        sizes = batch_sizes(model, items, pad_to_valid=True)
    tokens, seeds = sizes.empty_tokens(model), [item.request.seed for item in items]
    noise_sampler = NoiseSampler(tokens, seeds, model.device)
    noise = initial_noise(model, inputs, noise_sampler)
    initial = init_state(model, init_data, sizes.padded[0], plan.schedule, noise)
    rows = range(len(items)) if indices is None else indices
    runner = StepCallbackRunner(model, plan, initial, tokens, sizes, callback, rows, stop_on_nonfinite)
    cond, uncond = _encode(model, plan, items, inputs, sizes)
    with model.onload("backbone", "head"):
        velocity = make_velocity(
            model, plan.guidance, plan.attention, tokens, cond, uncond, inputs.guide_model, initial.constraint
        )
        if len(initial.schedule) == 1:  # a strength of 0
            solution = Solution(initial.x, 0, 0)
        else:
            solution = integrate(
                velocity, initial.x, initial.schedule, plan.solver, runner, noise_sampler, plan.max_nfe
            )
    values = solution.values if runner.stop_values is None else runner.stop_values
    data = runner.decode(values) if runner.stop_state is None else runner.stop_state.x1_pred
    stopped_at = None if runner.stop_state is None or runner.stop_state.time == 1 else runner.stop_state.time
    return GenerationResult(
        data=data.float().cpu(),
        seeds=tuple(seeds),
        nfe=solution.nfe,
        generation_seconds=clock.perf_counter() - start,
        settings=plan.settings,
        sizes=sizes,
        stopped_at=stopped_at,
        cached_nfe=_cached_nfe(velocity, solution.nfe),
        latents=tuple(latent.float().cpu() for latent in sizes.unpatchify(model, tokens.with_values(values))),
    )


def _encode(
    model: Model, plan: SamplingPlan, items: Sequence[Item], inputs: PrecomputedInputs, sizes: BatchSizes
) -> tuple[Condition, Condition | None]:
    """Return the condition of the batch, and the second condition of guidance (None: off)."""
    uncond = None
    with model.onload("conditioners"):
        cond = encode_cond(model, items, inputs)
        if plan.guidance.scale != 1 and inputs.guide_model is None:
            uncond = encode_uncond(model, items, inputs)
    guide_cond = None
    if plan.guidance.scale != 1 and inputs.guide_model is not None:
        with inputs.guide_model.onload("conditioners"):
            guide_cond = encode_cond(inputs.guide_model, items, inputs)
    if inputs.cond is None and any(item.regions is not None for item in items):
        size = common_size(sizes.padded, "regional prompts")
        with model.onload("conditioners"):
            cond, uncond = apply_regional_prompts(model, items, cond, uncond, size)
        if guide_cond is not None and inputs.guide_model is not None:
            with inputs.guide_model.onload("conditioners"):
                guide_cond, _ = apply_regional_prompts(inputs.guide_model, items, guide_cond, None, size)
    return cond, uncond if guide_cond is None else guide_cond


def _cached_nfe(velocity: SamplingVelocity, nfe: int) -> tuple[float, ...] | None:
    fractions = velocity.cached_fractions()
    return None if fractions is None else tuple(round(nfe * fraction, 2) for fraction in fractions.tolist())
