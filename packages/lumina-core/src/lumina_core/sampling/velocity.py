"""The velocity of one batch of requests: what is prepared once, and what a change of time prepares again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.guidance import cfg, cfg_rescale, in_interval
from lumina_core.model import Model
from lumina_core.models.block_cache import BlockCacheState
from lumina_core.models.context_drop import TokenPool
from lumina_core.models.dit import pooled_scale, proportional_scale
from lumina_core.protocols import BlockCache, ContextDrop, RopeScaling, ScalableBackbone
from lumina_core.types import Condition, RopeContext, Tokens

RESCALABLE_METHODS = ("rope_context", "frequencies", "update_rope", "make_token_pool", "with_block_cache")
"""What a backbone must be able to do for all of this."""


@dataclass(frozen=True)
class AttentionOverrides:
    """How attention is fitted to a canvas that training did not have.

    Attributes:
        extrapolation: of the rotary frequencies; None: the trained ones.
        trained: blank tokens of the trained size on the CPU; None where nobody says it.
        proportional: tokens in training, for proportional attention; None: the usual scale.
        drop: which blocks average their keys and values, and when; None: none ever does.
        cache: when blocks are left out because little has changed; None: never.
    """

    rope_scaling: RopeScaling | None = None
    train_tokens: Tokens | None = None
    base_sequence_length: int | None = None
    context_drop: ContextDrop | None = None
    block_cache: BlockCache | None = None

    @property
    def is_default(self) -> bool:
        """Whether there is nothing to fit."""
        return all(
            override is None
            for override in (self.rope_scaling, self.base_sequence_length, self.context_drop, self.block_cache)
        )


class ModelVelocity:
    """A velocity: tokens that a model moves under one condition.

    Args:
        places: blank tokens on the CPU; their values stand for nothing.
    """

    def __init__(self, model: Model, tokens: Tokens, condition: Condition, attention: AttentionOverrides) -> None:
        self.model, self.condition, self.attention = model, condition, attention
        self.tokens, self.rope_scaling = tokens_to(tokens, model.device), attention.rope_scaling
        self.time: float | None = None
        if attention.is_default:
            self.precomputed = model.precompute(self.tokens, condition)
            return
        self.backbone = _rescalable_backbone(model)
        self.rope_contexts = _rope_contexts(self.backbone, tokens, attention.train_tokens)
        self.base_freqs = self.backbone.frequencies(model.device)
        freqs = self._freqs_at(0.0)
        self.precomputed = self.backbone.precompute(self.tokens, condition, freqs, self._attention_scale())
        if attention.context_drop is not None:
            token_pool = self.backbone.make_token_pool(
                self.tokens, condition, _line_window(attention.context_drop.window, self.rope_contexts[0])
            )
            self.precomputed = self.backbone.with_context_drop(
                self.precomputed, token_pool, freqs, self._attention_scale(token_pool)
            )
        if attention.block_cache is not None:
            self.precomputed = self.backbone.with_block_cache(self.precomputed, attention.block_cache)

    def cache_stats(self) -> tuple[int, Tensor] | None:
        """Evaluations asked for, and of how many each row (B,) did without the blocks; None without a step cache."""
        cache_state: BlockCacheState | None = (
            None if self.attention.block_cache is None else self.precomputed.block_cache
        )
        return (
            None if cache_state is None or cache_state.cached_nfe is None else (cache_state.nfe, cache_state.cached_nfe)
        )

    def set_time(self, t: float) -> None:
        """Told the time before it is asked: fit to it what depends on it."""
        if t == self.time:
            return
        self.time = t
        if self.rope_scaling is not None and self.rope_scaling.time_dependent:
            freqs = self._freqs_at(t)
            self.precomputed = self.backbone.update_rope(self.precomputed, self.tokens, self.condition, freqs)
        if self.attention.context_drop is not None:
            dropped_blocks = self.attention.context_drop.dropped_blocks(self.backbone.num_layers, t)
            self.precomputed = self.backbone.set_dropped_blocks(self.precomputed, dropped_blocks)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        velocity = self.model.velocity(self.tokens.with_values(x), t, self.condition, precomputed=self.precomputed)
        # what pads an item stays the zeros that it was
        return velocity if self.tokens.mask is None else velocity * self.tokens.mask[..., None]

    def _freqs_at(self, t: float) -> tuple[Tensor, ...]:
        """Of each axis, for all items alike or (B, 1, frequencies) where their canvases differ."""
        if self.rope_scaling is None:
            return self.base_freqs
        by_context = {
            rope_context: self.rope_scaling(self.base_freqs, rope_context, t)
            for rope_context in set(self.rope_contexts)
        }
        if len(by_context) == 1:
            return by_context[self.rope_contexts[0]]
        per_item = [by_context[rope_context] for rope_context in self.rope_contexts]
        return tuple(torch.stack(axis)[:, None] for axis in zip(*per_item, strict=True))

    def _attention_scale(self, token_pool: TokenPool | None = None) -> float | Tensor | None:
        """Of the self-attention, or of that over averaged keys."""
        attn_scale, base_length = getattr(self.rope_scaling, "attn_scale", None), self.attention.base_sequence_length
        if base_length is None and attn_scale is None:
            return None
        head_dim = self.rope_contexts[0].head_dim
        scale: float | Tensor = head_dim**-0.5
        if base_length is not None and token_pool is not None:
            scale = pooled_scale(token_pool, base_length, head_dim)
        elif base_length is not None:
            scale = proportional_scale(self.tokens, self.condition.reference, base_length, head_dim)
        if attn_scale is None:
            return scale
        factors: list[float] = [attn_scale(rope_context) for rope_context in self.rope_contexts]
        if len(set(factors)) == 1:
            return scale * factors[0]
        return scale * torch.tensor(factors, device=self.model.device).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class GuidanceConfig:
    """How what was said is strengthened.

    Attributes:
        scale: 1 adds nothing.
        only: which numbers of a token; None: all.
        rescale: how far the spread is brought back, 0 to 1.
        interval: times (0 noise, 1 data) between which it is at work; None: always.
        split: `together`, both halves in one batch; `apart`, one after the other, in half the memory; `auto`: together
            where that is quicker and fits.
    """

    scale: float = 1.0
    dims: slice | None = None
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    batching: Literal["auto", "batched", "sequential"] = "auto"


class CFGVelocity:
    """A velocity made of two: of what was said, and of silence (or of a weaker model).

    Args:
        said, against: make a half's velocity; made when they are first asked.
        both: makes the velocity of both halves in one batch, what was said first; None: they are always apart.
        how: `split: auto` begins together where `both` is given, and goes on apart where the memory does not suffice.

    Attributes:
        real: (B, N) bool, which tokens are no padding; None: all.
    """

    def __init__(
        self,
        cond: Callable[[], ModelVelocity],
        uncond: Callable[[], ModelVelocity],
        batched: Callable[[], ModelVelocity] | None,
        guidance: GuidanceConfig,
    ) -> None:
        self._factories = {"cond": cond, "uncond": uncond, "batched": batched or cond}
        self._velocities: dict[str, ModelVelocity] = {}
        self.guidance, self.batched, self.time = (
            guidance,
            batched is not None and guidance.batching != "sequential",
            0.0,
        )
        self.token_mask: Tensor | None = None

    def set_time(self, t: float) -> None:
        """Told the time before it is asked; the halves hear of it when they are."""
        self.time = t

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        guidance = self.guidance
        if guidance.scale == 1 or not in_interval(self.time, guidance.interval):
            return self._evaluate("cond", x, t)
        cond, uncond = self._cond_and_uncond(x, t)
        return cfg_rescale(cfg(cond, uncond, guidance.scale, guidance.dims), cond, guidance.rescale, self.token_mask)

    def cache_stats(self) -> tuple[int, Tensor] | None:
        """Halves asked for, and how many of them each item (B,) did without the blocks; None without a step cache."""
        stats = {name: velocity.cache_stats() for name, velocity in self._velocities.items()}
        available = [(2 if name == "batched" else 1, *counts) for name, counts in stats.items() if counts is not None]
        if not available:
            return None
        rows = [cached.unflatten(0, (halves, -1)).sum(dim=0) for halves, _, cached in available]
        return sum(halves * total for halves, total, _ in available), torch.stack(rows).sum(dim=0)

    def _cond_and_uncond(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.batched:
            try:
                cond, uncond = self._evaluate("batched", torch.cat([x, x]), torch.cat([t, t])).chunk(2)
                return cond, uncond
            except (MemoryError, RuntimeError) as error:
                if self.guidance.batching == "batched" or not is_out_of_memory(error):
                    raise
                self.batched = False
                self._velocities.pop("batched", None)
        return self._evaluate("cond", x, t), self._evaluate("uncond", x, t)

    def _evaluate(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        if name not in self._velocities:
            self._velocities[name] = self._factories[name]()
        self._velocities[name].set_time(self.time)
        return self._velocities[name](x, t)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what it says."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def tokens_to(tokens: Tokens, device: torch.device) -> Tokens:
    """The same tokens on a device."""
    mask = None if tokens.mask is None else tokens.mask.to(device)
    return Tokens(tokens.values.to(device), tokens.positions.to(device), tokens.sizes, mask)


def _line_window(window: tuple[int, int, int], rope_context: RopeContext) -> tuple[int, int, int]:
    """Where tokens stand in a line along the first axis, windows of rows and columns are windows of that line."""
    is_line = rope_context.lengths[1:] == (1, 1) and window[0] == 1
    return (max(window), 1, 1) if is_line else window


def repeat_batch(tokens: Tokens) -> Tokens:
    """A batch, and itself behind it; places that all items share stay shared."""
    shared = len(tokens.sizes) == 1 or tokens.positions.stride(0) == 0
    positions, mask = tokens.positions, tokens.mask
    return Tokens(
        torch.cat([tokens.values, tokens.values]),
        positions[:1].expand(2 * len(tokens.sizes), -1, -1) if shared else torch.cat([positions, positions]),
        tokens.sizes * 2,
        None if mask is None else torch.cat([mask, mask]),
    )


def _rope_contexts(backbone: ScalableBackbone, tokens: Tokens, train_tokens: Tokens | None) -> tuple[RopeContext, ...]:
    """One for all items of one size, else one an item."""
    if len(set(tokens.sizes)) == 1:
        return (backbone.rope_context(tokens, train_tokens),)
    items = dict(zip(tokens.sizes, tokens.items(), strict=True))
    by_size = {size: backbone.rope_context(item, train_tokens) for size, item in items.items()}
    return tuple(by_size[size] for size in tokens.sizes)


def _rescalable_backbone(model: Model) -> ScalableBackbone:
    if model.backbone is None:
        raise ConfigError("this model has no backbone: it was made to teach a conditioner and cannot generate")
    if not all(hasattr(model.backbone, name) for name in RESCALABLE_METHODS):
        raise ConfigError(
            f"the backbone {type(model.backbone).__name__} has no rotary positions to scale; ask without "
            "extrapolation, proportional attention, context drop and step cache"
        )
    return cast(ScalableBackbone, model.backbone)
