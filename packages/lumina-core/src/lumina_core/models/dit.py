"""What Next-DiT and Flag-DiT share: embeddings and a row of blocks over tokens; a child says what a block is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.attention import Attention, CrossAttentionKV, proportional_attn_scale
from lumina_core.models.block_cache import BlockCacheState, select_rows
from lumina_core.models.context_drop import PooledAttention, TokenPool, make_token_pool
from lumina_core.models.layers import (
    Linear,
    PooledEmbedding,
    TimestepEmbedder,
    can_run_inplace,
    has_no_hooks,
    onednn_swiglu,
    prefers_onednn,
)
from lumina_core.models.rope import RotaryEmbedding
from lumina_core.protocols import BlockCache
from lumina_core.types import BackboneOutput, Condition, RopeContext, Tokens


class RMSNorm(nn.Module):
    """Divide by the root mean square (float32), then multiply by the weight in the input's dtype, as published."""

    def __init__(self, dim: int, eps: float, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.eps, self.dim = eps, dim
        self.weight = nn.Parameter(torch.ones(dim)) if elementwise_affine else None

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """(..., width) -> (..., width), times `by`, a number or one that broadcasts to it."""
        if can_run_inplace(x):
            combined_scale, normed = self._combined_scale(x, scale), self._normalize(x)
            return (
                normed * combined_scale
                if isinstance(combined_scale, Tensor) and combined_scale.dtype != x.dtype
                else normed.mul_(combined_scale)
            )
        if x.dtype == torch.float32:
            return F.rms_norm(x, (self.dim,), self.weight, self.eps) * scale
        normed = F.rms_norm(x.float(), (self.dim,), None, self.eps).to(x.dtype)
        return (normed if self.weight is None else normed * self.weight.to(x.dtype)) * scale

    def add_normed(self, x: Tensor, branch: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """x + what `forward` answers to `made`; all (..., width)."""
        if self.weight is None or self._forward_hooks or not can_run_inplace(x):
            result: Tensor = x + self(branch, scale)
            return result
        combined_scale, normed = self.weight.to(x.dtype) * scale, self._normalize(branch)
        if not combined_scale.dtype == normed.dtype == x.dtype:
            return x + normed * combined_scale
        torch.addcmul(x, normed, combined_scale, out=normed)
        return normed

    def _normalize(self, x: Tensor) -> Tensor:
        """Without the weight, in memory of its own: eager F.rms_norm goes over x five times on a CPU, this twice."""
        x_float = x.float()
        rstd = torch.linalg.vector_norm(x_float, dim=-1, keepdim=True).square().div(self.dim).add(self.eps).rsqrt()
        return x_float * rstd if x_float is x else x_float.mul_(rstd).to(x.dtype)

    def _combined_scale(self, x: Tensor, scale: Tensor | float) -> Tensor | float:
        # weight and `by` are one vector before they meet x
        return scale if self.weight is None else self.weight.to(x.dtype) * scale


class FeedForward(nn.Module):
    """SwiGLU: out(silu(gate x) * (up x)); gate and up are one matrix."""

    def __init__(self, hidden_size: int, ffn_dim: int) -> None:
        super().__init__()
        self.up = Linear(hidden_size, 2 * ffn_dim, bias=False)
        self.out = Linear(ffn_dim, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        if has_no_hooks(self.up) and prefers_onednn(x, self.up.weight):
            gate, up = self.up.weight.chunk(2)
            inner = onednn_swiglu(x, gate, up)
        else:
            gate_out, up_out = self.up(x).chunk(2, dim=-1)
            inner = F.silu(gate_out) * up_out
        output: Tensor = self.out(inner)
        return output


def ffn_hidden_dim(hidden_size: int, multiple_of: int, ffn_dim_multiplier: float | None) -> int:
    """The published width of the feed-forward: 8/3 of the width (times a multiplier), rounded up to a multiple."""
    hidden = int(2 * (4 * hidden_size) / 3)
    if ffn_dim_multiplier is not None:
        hidden = int(ffn_dim_multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


class BlockBase(nn.Module):
    """What every block is made of: two branches, a norm of the memory of its own, and a modulation that begins at zero.

    Args:
        attention, feed: the two branches.
        memory_norm: of the memory, before attention reads it; None: no memory.
        modulation_width: of the vector that modulates the branches; 0: none.
        numbers: how many the modulation gives.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        context_norm: RMSNorm | None,
        modulation_dim: int,
        num_modulation: int,
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward, self.context_norm = attention, feed_forward, context_norm
        self.modulation = Linear(modulation_dim, num_modulation) if modulation_dim else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def project_kv(
        self, context: Tensor, mask: Tensor | None, region_weights: Tensor | None = None
    ) -> CrossAttentionKV:
        """This block's keys and values of a memory (B, M, W')."""
        assert self.context_norm is not None  # the backbone asks only where a memory was configured
        return self.attention.project_kv(self.context_norm(context), mask, region_weights)


class NextDiTBlock(BlockBase):
    """x + tanh(gate) * norm2(branch(norm1(x) * (1 + scale))), attention then feed-forward (Lumina-Next, section 2.1).

    Args:
        attention, feed: the two branches.
        modulation_width: of the vector that gives scales and gates; 0: neither (recognition).
        memory_width: of the memory, which passes a norm of this block's own before attention; 0: none.
        weighted: whether the norms before the branches have weights (the published ImageNet models have none).
    """

    def __init__(
        self, attention: Attention, feed_forward: FeedForward, hidden_size: int, cross_attention_dim: int, modulation_dim: int,
        eps: float, weighted_pre_norm: bool,
    ) -> None:  # fmt: skip
        context_norm = RMSNorm(cross_attention_dim, eps) if cross_attention_dim else None
        super().__init__(attention, feed_forward, context_norm, modulation_dim, 4 * hidden_size)
        self.attention_norm1, self.ffn_norm1 = (
            RMSNorm(hidden_size, eps, weighted_pre_norm),
            RMSNorm(hidden_size, eps, weighted_pre_norm),
        )
        self.attention_norm2, self.ffn_norm2 = RMSNorm(hidden_size, eps), RMSNorm(hidden_size, eps)

    def forward(
        self, x: Tensor, rope: RotaryEmbedding, mask: Tensor | None, cross_kv: CrossAttentionKV | None, modulation: Tensor | None,
        scale: float | Tensor | None = None, pooled_attention: PooledAttention | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width), modulation (B, A) already through SiLU, or None -> (B, N, width)."""
        scale_a, gate_a, scale_f, gate_f = self._modulation_params(modulation)
        attn_out = self.attention(self.attention_norm1(x, scale_a), rope, mask, cross_kv, scale, pooled_attention)
        x = self.attention_norm2.add_normed(x, attn_out, gate_a)
        return self.ffn_norm2.add_normed(x, self.feed_forward(self.ffn_norm1(x, scale_f)), gate_f)

    def block_input(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """What attention is handed of x (B, N, width), for who wants to know how much it has changed."""
        attn_input: Tensor = self.attention_norm1(x, self._modulation_params(modulation)[0])
        return attn_input

    def _modulation_params(self, modulation: Tensor | None) -> Sequence[Tensor | float]:
        if self.modulation is None or modulation is None:
            return (1.0, 1.0, 1.0, 1.0)
        scale_a, gate_a, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(4, dim=-1)
        return (1 + scale_a, gate_a.tanh(), 1 + scale_f, gate_f.tanh())


@dataclass(frozen=True)
class BlockInputs:
    """All that neither time nor the tokens' values change, computed once a request.

    Attributes:
        turned: rotary angles of the tokens (and of the context behind them).
        mask: (B, 1, 1, N) bool, or None where nothing is padded.
        memories: keys and values of the memory for each block, or empty.
        summary: (B, A) embedded summary, or None.
        context: (B, C, W) embedded context tokens, or None.
        scale: of the self-attention, (B, 1, 1, 1) for one an item; None: the usual one.
        pooling: what blocks are handed that average their keys and values; None: none does.
        pooled: which blocks do; empty: none.
        reuse: what is remembered from evaluation to evaluation; None: each is computed whole.
    """

    rope: RotaryEmbedding
    mask: Tensor | None
    cross_kvs: tuple[CrossAttentionKV, ...]
    pooled: Tensor | None
    reference: Tensor | None
    scale: float | Tensor | None = None
    pooled_attention: PooledAttention | None = None
    dropped_blocks: tuple[bool, ...] = ()
    block_cache: BlockCacheState | None = None

    def pooled_attention_of(self, index: int) -> PooledAttention | None:
        """The pooling of a block, or None where it does not average now."""
        return self.pooled_attention if self.dropped_blocks and self.dropped_blocks[index] else None


def joined_mask(tokens: Tokens, reference: Tokens | None) -> Tensor | None:
    """(B, N) bool over tokens and the context behind them, True for a real one; None where nothing is padded."""
    parts = [tokens] if reference is None else [tokens, reference]
    if all(part.mask is None for part in parts):
        return None
    return torch.cat([_mask_or_ones(part) for part in parts], dim=1)


def proportional_scale(
    tokens: Tokens, reference: Tokens | None, train_length: int, head_dim: int, count_padding: bool = False
) -> float | Tensor:
    """The scale of proportional attention by the keys that each item really has; (B, 1, 1, 1) where some are padded.

    Args:
        trained: keys in training, at least 2.
        padded: count padding too, as published.
    """
    mask = None if count_padding else joined_mask(tokens, reference)
    if mask is None:
        length = tokens.values.shape[1] + (0 if reference is None else reference.values.shape[1])
        return proportional_attn_scale(length, train_length, head_dim)
    return proportional_attn_scale(mask.sum(dim=1).view(-1, 1, 1, 1), train_length, head_dim)


def pooled_scale(pool: TokenPool, train_length: int, head_dim: int) -> float | Tensor:
    """The scale of proportional attention over averaged keys: it counts those that the softmax sees."""
    if pool.counts is None:
        return proportional_attn_scale(pool.positions.shape[1], train_length, head_dim)
    return proportional_attn_scale(pool.counts.view(-1, 1, 1, 1), train_length, head_dim)


def axis_lengths(positions: Tensor, mask: Tensor | None) -> tuple[float, float, float]:
    """Tokens from the first to the last place along each axis, of positions (B, N, 3) on the CPU."""
    distinct = positions[:1] if mask is None and positions.stride(0) == 0 else positions
    real_positions = distinct.flatten(0, 1) if mask is None else distinct[mask]
    first, second, third = (real_positions.amax(dim=0) - real_positions.amin(dim=0) + 1).tolist()
    return first, second, third


def _mask_or_ones(tokens: Tokens) -> Tensor:
    if tokens.mask is not None:
        return tokens.mask
    return torch.ones(tokens.values.shape[:2], dtype=torch.bool, device=tokens.values.device)


class DiTConfig(Settings):
    """What every backbone is asked. What other parts decide (the last three) is filled in when a model is built."""

    hidden_size: int = Field(ge=8, description="width of the tokens inside")
    num_layers: int = Field(ge=1, description="blocks")
    num_heads: int = Field(ge=1, description="query heads")
    num_kv_heads: int | None = Field(None, ge=1, description="key and value heads; None: as many as query heads")
    rope_theta: float = Field(10000.0, gt=1, description="base of the rotary frequencies")
    qk_norm: bool = Field(True, description="LayerNorm on queries and keys")
    eps: float = Field(1e-5, gt=0, description="of the norms")
    multiple_of: int = Field(256, ge=1, description="the feed-forward's width is rounded up to a multiple of it")
    ffn_dim_multiplier: float | None = Field(None, gt=0, description="of the feed-forward's width")
    time_conditioned: bool = Field(True, description="False: no time and no modulation, for recognition")
    pooled_embed: Literal["mlp", "add"] = Field("mlp", description="add: added as it is, as class labels are published")
    gradient_checkpointing: bool = Field(
        False, description="compute each block again in the backward pass to save memory"
    )
    attn_backend: Literal["auto", "fused", "matmul"] = Field("auto", description="how attention is computed")
    token_dim: int = Field(0, ge=0, description="the tokenizer's; filled in")
    cross_attention_dim: int = Field(0, ge=0, description="the conditioners'; filled in")
    pooled_dim: int = Field(0, ge=0, description="the conditioners', together; filled in")


class DiTBackbone(nn.Module):
    """Tokens, time and condition -> hidden, through blocks that take (x, turned, mask, memory, modulation, scale).

    Args:
        modulation_width: of the vector that modulates every block; 0: none.
        block: makes one block, which also has `remember(memory, real)` for the memory's keys and values.
    """

    config: DiTConfig

    def __init__(self, config: DiTConfig, modulation_dim: int, make_block: Callable[[], nn.Module]) -> None:
        super().__init__()
        _check_config(config, modulation_dim)
        self.config, self.modulation_dim = config, modulation_dim
        self.embed = Linear(config.token_dim, config.hidden_size)
        nn.init.zeros_(self.embed.bias)
        self.time_embed = TimestepEmbedder(modulation_dim) if modulation_dim else None
        embeds_pooled = config.pooled_dim and modulation_dim and config.pooled_embed == "mlp"
        self.pooled_embed = PooledEmbedding(config.pooled_dim, modulation_dim) if embeds_pooled else None
        self.blocks = nn.ModuleList(make_block() for _ in range(config.num_layers))

    def precompute(
        self, tokens: Tokens, condition: Condition, freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> BlockInputs:  # fmt: skip
        """What stays the same through all evaluations of a request.

        Args:
            rates: rotary frequencies of each axis, for canvases larger than trained; None: the model's own.
            scale: of the self-attention, (B, 1, 1, 1) for one an item; None: head width ** -0.5.

        Raises:
            ShapeError: tokens or condition have not the widths that this backbone was built for.
        """
        self._check_dims(tokens, condition)
        reference, pooled = condition.reference, condition.pooled
        mask = joined_mask(tokens, reference)
        rope_freqs = self.frequencies(tokens.positions.device) if freqs is None else freqs
        return BlockInputs(
            rope=self._rope(_joined_positions(tokens, reference), mask, rope_freqs),
            mask=None if mask is None else mask[:, None, None],
            cross_kvs=self._cross_kvs(condition),
            pooled=pooled if self.pooled_embed is None or pooled is None else self.pooled_embed(pooled),
            reference=None if reference is None else self.embed(reference.values),
            scale=scale,
        )

    def update_rope(
        self, precomputed: BlockInputs, tokens: Tokens, condition: Condition, freqs: Sequence[Tensor]
    ) -> BlockInputs:
        """What was precomputed for these tokens and this condition, with other rotary frequencies."""
        mask = None if precomputed.mask is None else precomputed.mask[:, 0, 0]
        rope, pooled_attention = (
            self._rope(_joined_positions(tokens, condition.reference), mask, freqs),
            precomputed.pooled_attention,
        )
        if pooled_attention is not None:
            pooled_attention = replace(pooled_attention, rope=self._rope_at(pooled_attention.pool.positions, freqs))
        return replace(precomputed, rope=rope, pooled_attention=pooled_attention)

    def make_token_pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> TokenPool:
        """Windows over the tokens, a context left alone; read on the CPU, once a request."""
        mask, reference = joined_mask(tokens, condition.reference), condition.reference
        positions, mask = _joined_positions(tokens, reference).cpu(), None if mask is None else mask.cpu()
        num_unpooled = 0 if reference is None else reference.values.shape[1]
        return make_token_pool(self._rope_positions(positions, mask), mask, window, num_unpooled).to(
            tokens.values.device
        )

    def with_context_drop(
        self,
        precomputed: BlockInputs,
        pool: TokenPool,
        freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> BlockInputs:
        """What was precomputed, ready for blocks that average their keys and values; `with_pooled` says which do.

        Args:
            scale: of the self-attention in these blocks; None: head width ** -0.5.
        """
        rope_freqs = self.frequencies(pool.positions.device) if freqs is None else freqs
        return replace(
            precomputed, pooled_attention=PooledAttention(pool, self._rope_at(pool.positions, rope_freqs), scale)
        )

    def set_dropped_blocks(self, precomputed: BlockInputs, dropped: tuple[bool, ...]) -> BlockInputs:
        """What was precomputed, with these blocks averaging."""
        return replace(precomputed, dropped_blocks=dropped)

    def with_block_cache(self, precomputed: BlockInputs, policy: BlockCache) -> BlockInputs:
        """What was precomputed, with a step cache of its own: for the evaluations of one way, one after another."""
        return replace(precomputed, block_cache=BlockCacheState(policy))

    def rope_context(self, tokens: Tokens, train_tokens: Tokens | None) -> RopeContext:
        """How far tokens reach beside those of training; both on the CPU."""
        train_lengths = None if train_tokens is None else self._axis_lengths(train_tokens)
        return RopeContext(
            self._axis_lengths(tokens),
            train_lengths,
            self.config.rope_theta,
            self.config.hidden_size // self.config.num_heads,
        )

    @property
    def num_layers(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies of the three axes, float64."""
        raise NotImplementedError

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: BlockInputs | None = None
    ) -> BackboneOutput:
        """Noisy tokens (B, N, D) at time (B,) in 0..1 -> hidden (B, N, W); time None where it is not timed."""
        inputs = self.precompute(tokens, condition) if precomputed is None else precomputed
        modulation = self._modulation(t, inputs.pooled)
        x = self.embed(tokens.values)
        if inputs.reference is not None:
            x = torch.cat([x, inputs.reference], dim=1)
        modulation_act = None if modulation is None else F.silu(modulation)
        x = (
            self._run_blocks(x, modulation_act, inputs)
            if inputs.block_cache is None
            else self._run_cached(x, modulation_act, inputs, inputs.block_cache)
        )
        return BackboneOutput(x[:, : tokens.values.shape[1]], modulation)

    def _run_blocks(self, x: Tensor, modulation: Tensor | None, inputs: BlockInputs) -> Tensor:
        for index, block in enumerate(self.blocks):
            cross_kv = inputs.cross_kvs[index] if inputs.cross_kvs else None
            arguments = (
                x,
                inputs.rope,
                inputs.mask,
                cross_kv,
                modulation,
                inputs.scale,
                inputs.pooled_attention_of(index),
            )
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return x

    def _run_cached(self, x: Tensor, modulation: Tensor | None, inputs: BlockInputs, cache: BlockCacheState) -> Tensor:
        """Through the blocks, but for rows in which too little has changed."""
        first_block: Any = self.blocks[0]

        def run_rows(rows: Tensor | None) -> Tensor:
            if rows is None:
                return self._run_blocks(x, modulation, inputs)
            picked = select_rows(replace(inputs, block_cache=None), rows, len(x))
            return self._run_blocks(x[rows], None if modulation is None else modulation[rows], picked)

        mask = None if inputs.mask is None else inputs.mask[:, 0, 0]
        return cache.run_or_reuse(x, first_block.block_input(x, modulation), mask, run_rows)

    def _rope(self, positions: Tensor, mask: Tensor | None, freqs: Sequence[Tensor]) -> RotaryEmbedding:
        """Angles of the tokens and of the context behind them; `real` (B, N) as `joined_mask` gives it."""
        return self._rope_at(self._rope_positions(positions, mask), freqs)

    def _rope_at(self, positions: Tensor, freqs: Sequence[Tensor]) -> RotaryEmbedding:
        raise NotImplementedError

    def _axis_lengths(self, tokens: Tokens) -> tuple[float, float, float]:
        return axis_lengths(self._rope_positions(tokens.positions, tokens.mask), tokens.mask)

    def _rope_positions(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Where tokens count as standing."""
        return positions

    def _modulation(self, t: Tensor | None, pooled: Tensor | None) -> Tensor | None:
        if self.time_embed is None:
            return None
        if t is None:
            raise ShapeError("this backbone is timed; give it a time (B,) in 0..1")
        embedded: Tensor = self.time_embed(t)
        return embedded if pooled is None else embedded + pooled

    def _cross_kvs(self, condition: Condition) -> tuple[CrossAttentionKV, ...]:
        if condition.context is None:
            return ()
        blocks: Iterable[Any] = self.blocks  # torch types the members as mere modules
        region_weights = _region_weights(condition)
        return tuple(block.project_kv(condition.context, condition.context_mask, region_weights) for block in blocks)

    def _check_dims(self, tokens: Tokens, condition: Condition) -> None:
        config, reference = self.config, condition.reference
        for name, tensor, dim in (
            ("tokens", tokens.values, config.token_dim),
            ("context", None if reference is None else reference.values, config.token_dim),
            ("memory", condition.context, config.cross_attention_dim),
            ("summary", condition.pooled, config.pooled_dim),
        ):
            if tensor is not None and tensor.shape[-1] != dim:
                raise ShapeError(f"the {name}: {tensor.shape[-1]} numbers wide; this backbone takes {dim or 'none'}")


def _region_weights(condition: Condition) -> Tensor | None:
    """Of the tokens and of the context behind them, which reads every region alike."""
    region_weights = condition.region_weights
    if region_weights is None or condition.reference is None:
        return region_weights
    uniform = region_weights.new_full(
        (*region_weights.shape[:2], condition.reference.values.shape[1]), 1 / region_weights.shape[1]
    )
    return torch.cat([region_weights, uniform], dim=2)


def _joined_positions(tokens: Tokens, reference: Tokens | None) -> Tensor:
    return tokens.positions if reference is None else torch.cat([tokens.positions, reference.positions], dim=1)


def make_attn_mlp(config: DiTConfig) -> tuple[Attention, FeedForward]:
    """The two branches of a block of these sizes."""
    attention = Attention(
        config.hidden_size,
        config.num_heads,
        config.num_kv_heads or config.num_heads,
        config.cross_attention_dim,
        config.qk_norm,
        config.attn_backend,
    )
    return attention, FeedForward(
        config.hidden_size, ffn_hidden_dim(config.hidden_size, config.multiple_of, config.ffn_dim_multiplier)
    )


def _check_config(config: DiTConfig, modulation_dim: int) -> None:
    if config.hidden_size % config.num_heads or config.num_heads % (config.num_kv_heads or config.num_heads):
        raise ConfigError(
            f"the backbone's hidden_size {config.hidden_size} must be a multiple of num_heads {config.num_heads}, "
            f"and num_heads of num_kv_heads {config.num_kv_heads}"
        )
    if not config.token_dim:
        raise ConfigError("the backbone's token_dim is 0; it is the tokenizer's width, filled in when a model is built")
    if config.pooled_embed == "add" and modulation_dim and config.pooled_dim not in (0, modulation_dim):
        raise ConfigError(
            f"a pooled vector is added to the modulation, which is {modulation_dim} wide; this one is "
            f"{config.pooled_dim}: give the conditioner that width, or write `pooled_embed: mlp`"
        )
