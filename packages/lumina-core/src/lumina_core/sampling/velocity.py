"""Velocity of a batch during sampling: the model with rescaled attention, guidance, and the inpainting constraint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lumina_core.conditioning.ops import stack
from lumina_core.errors import ConfigError
from lumina_core.flow.path import sample_x_t, velocity_target
from lumina_core.model import Model
from lumina_core.models.dit import pooled_scale, proportional_scale
from lumina_core.protocols import BlockCache, ContextDrop, Guidance, ProbPath, RopeScaling, ScalableBackbone
from lumina_core.types import Condition, RopeContext, Tokens, stack_tokens

if TYPE_CHECKING:
    from lumina_core.models.context_drop import TokenPool


@dataclass(frozen=True)
class AttentionOverrides:
    """Changes to attention for a request.

    Attributes:
        rope_scaling: scaling of the rotary frequencies; None: none.
        train_tokens: empty tokens of the training size, on the CPU; None if the size is not available.
        base_sequence_length: tokens in training, for proportional attention; None: off.
        context_drop: blocks that average keys and values; None: none.
        block_cache: when blocks are skipped; None: never.
    """

    rope_scaling: RopeScaling | None = None
    train_tokens: Tokens | None = None
    base_sequence_length: int | None = None
    context_drop: ContextDrop | None = None
    block_cache: BlockCache | None = None

    @property
    def is_default(self) -> bool:
        """Whether attention is unchanged."""
        overrides = (self.rope_scaling, self.base_sequence_length, self.context_drop, self.block_cache)
        return all(override is None for override in overrides)


class ModelVelocity:
    """Velocity of a model under one condition.

    Args:
        model: the model.
        tokens: empty tokens on the CPU.
        condition: condition of the batch, on the model's device.
        attention: changes to attention.
    """

    def __init__(self, model: Model, tokens: Tokens, condition: Condition, attention: AttentionOverrides) -> None:
        self.model, self.condition, self.attention = model, condition, attention
        self.tokens, self.rope_scaling = tokens.to(model.device), attention.rope_scaling
        self.time: float | None = None
        self.time_dependent = attention.context_drop is not None or (
            self.rope_scaling is not None and self.rope_scaling.time_dependent
        )
        if attention.is_default:
            self.precomputed = model.precompute(self.tokens, condition)
            return
        self.backbone = _rescalable_backbone(model)
        self.rope_contexts = _rope_contexts(self.backbone, tokens, attention.train_tokens)
        self.base_freqs = self.backbone.frequencies(model.device)
        freqs = self._freqs_at(0.0)
        self.precomputed = self.backbone.precompute(self.tokens, condition, freqs, self._attention_scale())
        if attention.context_drop is not None:
            window = _line_window(attention.context_drop.window, self.rope_contexts[0])
            pool = self.backbone.make_token_pool(self.tokens, condition, window)
            scale = self._attention_scale(pool)
            self.precomputed = self.backbone.with_context_drop(self.precomputed, pool, freqs, scale)
        if attention.block_cache is not None:
            self.precomputed = self.backbone.with_block_cache(self.precomputed, attention.block_cache)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the velocity at x (B, N, D) and time t; padding has velocity 0."""
        if self.time_dependent and t != self.time:
            self._update_time(t)
        # a half-precision time would round 0.999 to 1
        times = x.new_full((len(x),), t, dtype=x.dtype if x.dtype.itemsize > 2 else torch.float32)
        velocity = self.model.velocity(self.tokens.with_values(x), times, self.condition, precomputed=self.precomputed)
        return velocity if self.tokens.mask is None else velocity * self.tokens.mask[..., None]

    def cache_stats(self) -> tuple[int, Tensor] | None:
        """Return the number of evaluations, and for each row (B,) of how many the blocks were skipped.

        None without a block cache.
        """
        state = None if self.attention.block_cache is None else self.precomputed.block_cache
        return None if state is None or state.cached_nfe is None else (state.nfe, state.cached_nfe)

    def _update_time(self, t: float) -> None:
        """Update the rotary frequencies and the blocks with context drop."""
        self.time = t
        if self.rope_scaling is not None and self.rope_scaling.time_dependent:
            freqs = self._freqs_at(t)
            self.precomputed = self.backbone.update_rope(self.precomputed, self.tokens, self.condition, freqs)
        if self.attention.context_drop is not None:
            dropped_blocks = self.attention.context_drop.dropped_blocks(self.backbone.num_layers, t)
            self.precomputed = self.backbone.set_dropped_blocks(self.precomputed, dropped_blocks)

    def _freqs_at(self, t: float) -> tuple[Tensor, ...]:
        """Return the frequencies of each axis: one row for all items, or (B, 1, frequencies) for several sizes."""
        if self.rope_scaling is None:
            return self.base_freqs
        contexts = dict.fromkeys(self.rope_contexts)
        by_context = {context: self.rope_scaling(self.base_freqs, context, t) for context in contexts}
        if len(by_context) == 1:
            return by_context[self.rope_contexts[0]]
        per_item = [by_context[context] for context in self.rope_contexts]
        return tuple(torch.stack(axis)[:, None] for axis in zip(*per_item, strict=True))

    def _attention_scale(self, token_pool: TokenPool | None = None) -> float | Tensor | None:
        """Return the scale of the self-attention, or of that over averaged keys; None: unchanged."""
        base_length, scaling = self.attention.base_sequence_length, self.rope_scaling
        factors = [1.0 if scaling is None else scaling.attn_scale(context) for context in self.rope_contexts]
        if base_length is None and set(factors) == {1.0}:
            return None
        head_dim = self.rope_contexts[0].head_dim
        scale: float | Tensor = head_dim**-0.5
        if base_length is not None and token_pool is not None:
            scale = pooled_scale(token_pool, base_length, head_dim)
        elif base_length is not None:
            scale = proportional_scale(self.tokens, self.condition.reference, base_length, head_dim)
        if len(set(factors)) == 1:
            return scale * factors[0]
        return scale * torch.tensor(factors, device=self.model.device).view(-1, 1, 1, 1)


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Return uncond + scale (cond - uncond): classifier-free guidance (arXiv 2207.12598).

    With the velocity of a weaker model under the same condition in place of `uncond` it is autoguidance
    (arXiv 2406.02507).

    Args:
        cond: (B, N, D).
        uncond: (B, N, D).
        scale: 1 returns exactly `cond`.
    """
    return cond if scale == 1 else torch.lerp(uncond, cond, scale)


def cfg_rescale(guided: Tensor, cond: Tensor, rescale: float, mask: Tensor | None = None) -> Tensor:
    """Scale a guided velocity towards the standard deviation of the conditional one, per item (arXiv 2305.08891).

    Args:
        guided: (B, N, D).
        cond: (B, N, D).
        rescale: 0 changes nothing, 1 gives it all of the conditional standard deviation.
        mask: (B, N) bool, False for padding; None: no padding.
    """
    if rescale == 0:
        return guided
    std, cond_std = (_masked_std(values, mask) for values in (guided, cond))
    return guided * (rescale * cond_std / std.clamp_min(1e-8) + 1 - rescale)


def _masked_std(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the (B, 1, 1) standard deviation of each item without padding."""
    dims = tuple(range(1, values.ndim))
    if mask is None:
        return values.std(dim=dims, keepdim=True)
    weights = mask[..., None].to(values)
    count = weights.sum(dim=dims, keepdim=True) * values.shape[-1]
    deviation = (values - (values * weights).sum(dim=dims, keepdim=True) / count) * weights
    return (deviation.square().sum(dim=dims, keepdim=True) / (count - 1)).sqrt()


@dataclass(frozen=True)
class GuidanceConfig:
    """Guidance of a request.

    Attributes:
        function: combines the conditional and the unconditional velocity.
        scale: guidance scale; 1 is off.
        dims: numbers of a token that are guided; None: all.
        rescale: share, 0 to 1, of the conditional standard deviation that is restored.
        interval: times (0 noise, 1 data) between which guidance is on, both included; None: always.
        batching: "batched": both halves in one batch; "sequential": one after the other, in half the memory; "auto":
            batched, unless the memory does not suffice.
    """

    scale: float = 1.0
    function: Guidance = cfg
    dims: slice | None = None
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    batching: Literal["auto", "batched", "sequential"] = "auto"

    def is_on(self, t: float) -> bool:
        """Return whether guidance is on at a time (interval after arXiv 2404.07724)."""
        return self.scale != 1 and (self.interval is None or self.interval[0] <= t <= self.interval[1])

    def combine(self, cond: Tensor, uncond: Tensor, mask: Tensor | None) -> Tensor:
        """Return the guided velocity (B, N, D) of both halves (B, N, D); mask (B, N) is False for padding."""
        if self.dims is None:
            guided = self.function(cond, uncond, self.scale)
        else:
            guided = cond.clone()
            guided[..., self.dims] = self.function(cond[..., self.dims], uncond[..., self.dims], self.scale)
        return cfg_rescale(guided, cond, self.rescale, mask)


class InpaintConstraint:
    """Fixed values of tokens: each stays on the path between its own noise and its own data.

    After RePaint (arXiv 2201.09865), which sets the preserved region at every step. On a flow, the noise stays the same
    and the path is a line, so that the velocity is known as well, and solvers of any order are exact.

    Args:
        path: probability path of the model.
        noise: (B, N, D).
        data: (B, N, D).
        mask: (B, N, D) bool, True for fixed values.
    """

    def __init__(self, path: ProbPath, noise: Tensor, data: Tensor, mask: Tensor) -> None:
        self.path, self.noise, self.data, self.mask = path, noise, data, mask

    def constrain_velocity(self, velocity: Tensor, t: float) -> Tensor:
        """Replace the velocity (B, N, D) of fixed values."""
        times = self.noise.new_full((len(velocity),), t)
        return torch.where(self.mask, velocity_target(self.path, self.noise, self.data, times), velocity)

    def constrain_values(self, values: Tensor, t: float) -> Tensor:
        """Replace the fixed values in (B, N, D)."""
        times = values.new_full((len(values),), t)
        return torch.where(self.mask, sample_x_t(self.path, self.noise, self.data, times), values)


class SamplingVelocity:
    """Velocity that the solver integrates: the model's, with guidance and the inpainting constraint.

    Args:
        cond: makes the velocity under the condition.
        uncond: makes the velocity under the null condition, the negative prompt, or of the guide model; None: no
            guidance.
        batched: makes the velocity of both halves in one batch, the conditional half first; None: never batched.
        guidance: settings of guidance.
        token_mask: (B, N) bool, False for padding; None: no padding.
        constraint: fixed values; None: none.
    """

    def __init__(
        self,
        cond: Callable[[], ModelVelocity],
        uncond: Callable[[], ModelVelocity] | None,
        batched: Callable[[], ModelVelocity] | None,
        guidance: GuidanceConfig,
        token_mask: Tensor | None = None,
        constraint: InpaintConstraint | None = None,
    ) -> None:
        self._factories = {"cond": cond, "uncond": uncond or cond, "batched": batched or cond}
        self._velocities: dict[str, ModelVelocity] = {}
        self.guidance, self.has_uncond = guidance, uncond is not None
        self.batched = batched is not None and guidance.batching != "sequential"
        self.token_mask, self.constraint = token_mask, constraint

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the velocity at x (B, N, D) and time t."""
        if not (self.has_uncond and self.guidance.is_on(t)):
            velocity = self._part("cond")(x, t)
        else:
            cond = uncond = None
            if self.batched:
                try:
                    cond, uncond = self._part("batched")(torch.cat([x, x]), t).chunk(2)
                except (MemoryError, RuntimeError) as error:
                    if self.guidance.batching == "batched" or not is_out_of_memory(error):
                        raise
                    self.batched = False
                    self._velocities.pop("batched", None)
            if cond is None or uncond is None:
                cond, uncond = self._part("cond")(x, t), self._part("uncond")(x, t)
            velocity = self.guidance.combine(cond, uncond, self.token_mask)
        return velocity if self.constraint is None else self.constraint.constrain_velocity(velocity, t)

    def cached_fractions(self) -> Tensor | None:
        """Return for each item (B,) the share of the evaluations with skipped blocks; None without a block cache."""
        stats = [(2 if n == "batched" else 1, v.cache_stats()) for n, v in self._velocities.items()]
        available = [(halves, *counts) for halves, counts in stats if counts is not None]
        if not available:
            return None
        rows = [cached.unflatten(0, (halves, -1)).sum(dim=0) for halves, _, cached in available]
        return torch.stack(rows).sum(dim=0) / sum(halves * total for halves, total, _ in available)

    def _part(self, name: str) -> ModelVelocity:
        if name not in self._velocities:
            self._velocities[name] = self._factories[name]()
        return self._velocities[name]


def make_velocity(
    model: Model,
    guidance: GuidanceConfig,
    attention: AttentionOverrides,
    tokens: Tokens,
    cond: Condition,
    uncond: Condition | None,
    guide_model: Model | None = None,
    constraint: InpaintConstraint | None = None,
) -> SamplingVelocity:
    """Make the velocity of a batch.

    Args:
        model: the model.
        guidance: settings of guidance.
        attention: changes to attention.
        tokens: empty tokens on the CPU.
        cond: condition of the batch.
        uncond: null condition or negative prompt, or the same condition for the guide model; None: no guidance.
        guide_model: model of the second velocity (autoguidance); None: the model itself.
        constraint: fixed values; None: none.

    Raises:
        ConfigError: the guide model has other tokens, or the backbone does not support the changes to attention.
    """

    def factory(model: Model, tokens: Tokens, condition: Condition) -> Callable[[], ModelVelocity]:
        return lambda: ModelVelocity(model, tokens, condition, attention)

    mask = None if tokens.mask is None else tokens.mask.to(model.device)
    make_cond, make_uncond, batched = factory(model, tokens, cond), None, None
    if uncond is not None and guide_model is not None:
        make_uncond = factory(guide_model, _guide_tokens(guide_model, tokens), uncond)
    elif uncond is not None:
        make_uncond = factory(model, tokens, uncond)
        # the condition of both halves is stacked on first use
        both = (cond, uncond)
        batched = lambda: ModelVelocity(model, repeat_batch(tokens), stack(both), attention)  # noqa: E731
    velocity = SamplingVelocity(make_cond, make_uncond, batched, guidance, mask, constraint)
    if make_uncond is None:
        velocity._part("cond")  # errors come before the first step
    return velocity


def _guide_tokens(guide_model: Model, tokens: Tokens) -> Tokens:
    guide_tokens = stack_tokens([guide_model.tokenizer.empty(1, size) for size in tokens.sizes])
    if tokens.values.shape != guide_tokens.values.shape:
        raise ConfigError(
            f"guide_model: got tokens of shape {tuple(guide_tokens.values.shape[1:])}, expected "
            f"{tuple(tokens.values.shape[1:])}. Use a model of the same latents and patches."
        )
    return guide_tokens


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory does not suffice."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def repeat_batch(tokens: Tokens) -> Tokens:
    """Append a batch to itself; positions that all items share stay shared."""
    shared = len(tokens.sizes) == 1 or tokens.positions.stride(0) == 0
    positions, mask = tokens.positions, tokens.mask
    return Tokens(
        torch.cat([tokens.values, tokens.values]),
        positions[:1].expand(2 * len(tokens.sizes), -1, -1) if shared else torch.cat([positions, positions]),
        tokens.sizes * 2,
        None if mask is None else torch.cat([mask, mask]),
    )


def _line_window(window: tuple[int, int, int], rope_context: RopeContext) -> tuple[int, int, int]:
    """Return the window along the first axis for tokens in a line, else the window itself."""
    is_line = rope_context.lengths[1:] == (1, 1) and window[0] == 1
    return (max(window), 1, 1) if is_line else window


def _rope_contexts(backbone: ScalableBackbone, tokens: Tokens, train_tokens: Tokens | None) -> tuple[RopeContext, ...]:
    """Return one context for items of one size, else one per item."""
    if len(set(tokens.sizes)) == 1:
        return (backbone.rope_context(tokens, train_tokens),)
    items = dict(zip(tokens.sizes, tokens.items(), strict=True))
    by_size = {size: backbone.rope_context(item, train_tokens) for size, item in items.items()}
    return tuple(by_size[size] for size in tokens.sizes)


def _rescalable_backbone(model: Model) -> ScalableBackbone:
    if not isinstance(model.backbone, ScalableBackbone):
        raise ConfigError(
            f"backbone: got {type(model.backbone).__name__}, expected one with rotary positions to scale. Leave out "
            "rope_scaling, base_sequence_length, context_drop and block_cache."
        )
    return model.backbone
