"""Base of Next-DiT and Flag-DiT: embeddings, and blocks over tokens. Subclasses define the block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.attention import (
    Attention,
    AttentionMask,
    ContextInput,
    CrossAttentionKV,
    Segments,
    proportional_attn_scale,
)
from lumina_core.models.layers import (
    FeedForward,
    Linear,
    PooledEmbedding,
    RMSNorm,
    TimestepEmbedder,
    ffn_hidden_dim,
)
from lumina_core.protocols import AttentionTransform, BlockCache, Component, PositionEncoding
from lumina_core.types import BackboneOutput, Condition, RopeContext, Tokens, check_shape

if TYPE_CHECKING:
    from lumina_core.models.block_cache import BlockCacheState
    from lumina_core.models.context_drop import PooledAttention, TokenPool


class DiTConfig(Settings):
    """Options of every backbone. The last four are filled in from other components when a model is built."""

    hidden_size: int = Field(ge=8, description="width of the tokens")
    num_layers: int = Field(ge=1, description="blocks")
    num_heads: int = Field(ge=1, description="query heads")
    num_kv_heads: int | None = Field(None, ge=1, description="key and value heads; None: as many as query heads")
    rope_theta: float = Field(10000.0, gt=1, description="base of the rotary frequencies")
    position_encoding: ComponentSpec | None = Field(
        None, description="for example {type: core.mixed_rope}; None: rotary embedding by the rope_ options"
    )
    qk_norm: bool = Field(True, description="LayerNorm on queries and keys")
    eps: float = Field(1e-5, gt=0, description="of the norms")
    multiple_of: int = Field(256, ge=1, description="the feed-forward width is rounded up to a multiple of it")
    ffn_dim_multiplier: float | None = Field(None, gt=0, description="of the feed-forward width")
    time_conditioned: bool = Field(True, description="False: no time and no modulation, for recognition")
    pooled_embed: Literal["mlp", "add"] = Field(
        "mlp", description="add: without a layer of its own, as class labels are published"
    )
    gradient_checkpointing: bool = Field(False, description="recompute blocks in the backward pass to save memory")
    attn_backend: Literal["auto", "fused", "matmul"] = Field("auto", description="implementation of attention")
    token_condition_dim: int = Field(0, ge=0, description="the sum of the conditioners'; filled in")
    token_dim: int = Field(0, ge=0, description="the tokenizer's; filled in")
    cross_attention_dim: int = Field(0, ge=0, description="the conditioners'; filled in")
    pooled_dim: int = Field(0, ge=0, description="the sum of the conditioners'; filled in")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads

    def child_options(self) -> dict[str, Any]:
        """Return the sizes that a position encoding gets from its backbone."""
        return {
            "head_dim": self.head_dim,
            "num_heads": self.num_kv_heads or self.num_heads,
            "num_layers": self.num_layers,
        }


@dataclass(frozen=True)
class BlockInputs:
    """Inputs of the blocks that depend on neither time nor the tokens' values, computed once a request.

    Attributes:
        encoding: position encoding of the tokens and of the reference tokens behind them; one for all blocks or one
            per block.
        mask: (B, 1, 1, N) bool, or None without padding; `Segments` if the tokens are packed sequences.
        cross_kvs: keys and values of the context per block; in training one `ContextInput` for all blocks; or empty.
        pooled: (B, A) embedded pooled condition, or None.
        token_condition: (B, N, C) projected token condition, or None.
        reference: (B, R, C) embedded reference tokens, their condition added, or None.
        scale: of the self-attention, a number or (B, 1, 1, 1); None: head_dim ** -0.5.
        pooled_attention: for blocks that average keys and values; one for all blocks, one per block, or empty.
        dropped_blocks: for each block whether it averages keys and values; empty: no block does.
        block_cache: state of the block cache; None: all blocks run in every evaluation.
    """

    encoding: tuple[AttentionTransform, ...]
    mask: AttentionMask = None
    cross_kvs: tuple[CrossAttentionKV | ContextInput, ...] = ()
    pooled: Tensor | None = None
    token_condition: Tensor | None = None
    reference: Tensor | None = None
    scale: float | Tensor | None = None
    pooled_attention: tuple[PooledAttention, ...] = ()
    dropped_blocks: tuple[bool, ...] = ()
    block_cache: BlockCacheState | None = None

    def of_block(
        self, index: int
    ) -> tuple[
        AttentionTransform,
        AttentionMask,
        CrossAttentionKV | ContextInput | None,
        float | Tensor | None,
        PooledAttention | None,
    ]:
        """Return the arguments that the attention of a block takes besides its tokens, in the order of `Attention`."""
        is_dropped = bool(self.dropped_blocks) and self.dropped_blocks[index]
        return (
            _of_block(self.encoding, index),
            self.mask,
            _of_block(self.cross_kvs, index) if self.cross_kvs else None,
            self.scale,
            _of_block(self.pooled_attention, index) if is_dropped else None,
        )


def _of_block(items: Sequence[Any], index: int) -> Any:
    """Return the item of a block, or the only one."""
    return items[index] if len(items) > 1 else items[0]


class BlockBase(nn.Module):
    """Attention and feed-forward, a norm of the context, and a modulation that begins at zero.

    Args:
        config: of the backbone.
        modulation_dim: A, width of the modulation vector; 0: no modulation.
        num_modulation: vectors of width C that the modulation gives.
    """

    def __init__(self, config: DiTConfig, modulation_dim: int, num_modulation: int) -> None:
        super().__init__()
        self.attention = Attention(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads or config.num_heads,
            config.cross_attention_dim,
            config.qk_norm,
            config.attn_backend,
        )
        self.feed_forward = FeedForward(
            config.hidden_size, ffn_hidden_dim(config.hidden_size, config.multiple_of, config.ffn_dim_multiplier)
        )
        self.context_norm = RMSNorm(config.cross_attention_dim, config.eps) if config.cross_attention_dim else None
        self.modulation = Linear(modulation_dim, num_modulation * config.hidden_size) if modulation_dim else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def project_kv(
        self, context: Tensor, mask: Tensor | None, region_weights: Tensor | None = None
    ) -> CrossAttentionKV:
        """Compute this block's keys and values of a context; see `Attention.project_kv`."""
        assert self.context_norm is not None  # the backbone has checked the context's width
        return self.attention.project_kv(self.context_norm(context), mask, region_weights)

    def as_kv(self, context: CrossAttentionKV | ContextInput | None) -> CrossAttentionKV | None:
        """Return keys and values of a context, projected here unless they were projected before."""
        if isinstance(context, ContextInput):
            # not through `project_kv`, which sharded training wraps: it would release the weights within the block
            return BlockBase.project_kv(self, context.context, context.mask, context.region_weights)
        return context


class DiTBackbone(Component, nn.Module):
    """Tokens, time and condition -> hidden states, through a sequence of blocks.

    Subclasses define the block and the default position encoding. A block is called as
    block(x, modulation, *BlockInputs.of_block(index)), with x (B, N, C) and modulation (B, A) after SiLU or None; it
    also has `project_kv` and `block_input`.

    Args:
        config: sizes.
        position_encoding: the component that `config.position_encoding` names; None: the default of the subclass.
    """

    Config: type[DiTConfig]
    config: DiTConfig

    def __init__(self, config: DiTConfig, position_encoding: PositionEncoding | None = None) -> None:
        super().__init__()
        modulation_dim = self._modulation_dim(config) if config.time_conditioned else 0
        _check_config(config, modulation_dim)
        if position_encoding is None and config.position_encoding is not None:
            raise ConfigError(
                f"position_encoding: got the name {config.position_encoding.type} alone, expected the component too. "
                "Give it as the second argument of the backbone, or build the backbone from a recipe."
            )
        for name, field in type(config).model_fields.items():
            if position_encoding is not None and name.startswith("rope_") and dict(config)[name] != field.default:
                raise ConfigError(
                    f"{name}: got {dict(config)[name]}, expected none together with a position encoding. "
                    "Set the options of the encoding instead."
                )
        self.config, self.modulation_dim = config, modulation_dim
        self.position_encoding = self._default_encoding() if position_encoding is None else position_encoding
        self.embed = Linear(config.token_dim, config.hidden_size)
        nn.init.zeros_(self.embed.bias)
        self.time_embed = TimestepEmbedder(modulation_dim) if modulation_dim else None
        embeds_pooled = config.pooled_dim and modulation_dim and config.pooled_embed == "mlp"
        self.pooled_embed = PooledEmbedding(config.pooled_dim, modulation_dim) if embeds_pooled else None
        self.token_condition_embed: Linear | None = None
        if config.token_condition_dim:
            # without a bias, zeros are the same as no token condition
            self.token_condition_embed = Linear(config.token_condition_dim, config.hidden_size, bias=False)
            nn.init.zeros_(self.token_condition_embed.weight)
        self.blocks = nn.ModuleList(self._make_block() for _ in range(config.num_layers))

    def _modulation_dim(self, config: DiTConfig) -> int:
        """Return A, the width of the vector that modulates every block."""
        return config.hidden_size

    def _make_block(self) -> BlockBase:
        raise NotImplementedError

    def _default_encoding(self) -> PositionEncoding:
        raise NotImplementedError

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: BlockInputs | None = None
    ) -> BackboneOutput:
        """Compute hidden states.

        Args:
            tokens: noisy values (B, N, token_dim).
            t: (B,) in 0 (noise) to 1 (data); None if the backbone is not time-conditioned.
            condition: of the batch.
            precomputed: result of `precompute` for these tokens (whatever their values) and this condition.

        Returns:
            hidden_states (B, N, C) and modulation (B, A) or None.

        Raises:
            ShapeError: tokens, time or condition have other shapes than this backbone takes.
        """
        if precomputed is None:
            # in training, blocks project the context themselves: a recomputed or sharded block then holds all its work
            inputs = self.precompute(tokens, condition, project_context=not torch.is_grad_enabled())
        else:
            inputs = precomputed
        x, modulation = self._embed(tokens, t, inputs)
        modulation_act = None if modulation is None else F.silu(modulation)
        if inputs.block_cache is None:
            for index in range(self.num_layers):
                x = self._run_block(index, x, modulation_act, inputs)
        else:
            x = self._run_cached(x, modulation_act, inputs, inputs.block_cache)
        return BackboneOutput(x[:, : tokens.values.shape[1]], modulation)

    def forward_intermediates(
        self,
        tokens: Tokens,
        t: Tensor | None,
        condition: Condition,
        *,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
    ) -> list[Tensor]:
        """Return the hidden states after some blocks, as timm's method of this name; later blocks do not run.

        Args:
            tokens, t, condition: as in `forward`.
            indices: blocks, counted from 0, negative from the end; a number n: the last n blocks; None: all blocks.
            norm: apply the LayerNorm without weights with which a head begins.

        Returns:
            One (B, N, C) per index, in the order of `indices`.

        Raises:
            ShapeError: there is no such block, or the shapes do not fit.
        """
        blocks = block_indices(indices, self.num_layers)
        inputs = self.precompute(tokens, condition)
        x, modulation = self._embed(tokens, t, inputs)
        modulation_act = None if modulation is None else F.silu(modulation)
        hidden_states: dict[int, Tensor] = {}
        for index in range(max(blocks, default=-1) + 1):
            x = self._run_block(index, x, modulation_act, inputs)
            if index in blocks:
                features = x[:, : tokens.values.shape[1]]
                hidden_states[index] = F.layer_norm(features, features.shape[-1:], eps=1e-6) if norm else features
        return [hidden_states[index] for index in blocks]

    def compile_blocks(self, **kwargs: Any) -> None:
        """Compile every block with torch.compile, in place; names of weights stay as they are.

        Blocks share one compiled graph, so that compilation takes the time of one block. Arguments go to torch.compile.
        """
        for block in self.blocks:
            block.compile(**kwargs)

    def no_muon(self) -> set[str]:
        """Return the names of matrices that Muon does not train: the first layers and the modulations."""
        names = ("embed.weight", "token_condition_embed.weight")
        return {name for name, _ in self.named_parameters() if name in names or ".modulation." in name}

    def network_time(self, t: Tensor) -> Tensor:
        """Map time (B,) in 0..1 to the time that is embedded; the same here."""
        return t

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def precompute(
        self,
        tokens: Tokens,
        condition: Condition,
        freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
        project_context: bool = True,
    ) -> BlockInputs:
        """Compute all inputs of the blocks that stay the same in every evaluation of a request.

        Args:
            tokens: their values do not matter.
            condition: of the batch.
            freqs: rotary frequencies of each axis, for sizes larger than in training; None: the trained ones.
            scale: of the self-attention, a number or (B, 1, 1, 1); None: head_dim ** -0.5.
            project_context: False: blocks project the context to keys and values when they run, as in training.

        Raises:
            ShapeError: tokens or condition have other shapes than this backbone takes.
        """
        self._check_shapes(tokens, condition)
        reference, pooled, token_condition = condition.reference, condition.pooled, condition.token_condition
        mask = joined_mask(tokens, reference)
        if pooled is not None and self.pooled_embed is not None:
            pooled = self.pooled_embed(pooled)
        if token_condition is not None and self.token_condition_embed is not None:
            token_condition = self.token_condition_embed(token_condition)
        embedded = None if reference is None else self.embed(reference.values)
        reference_condition = condition.reference_condition
        if embedded is not None and reference_condition is not None and self.token_condition_embed is not None:
            embedded = embedded + self.token_condition_embed(reference_condition)
        blocks: Iterator[Any] = iter(self.blocks)
        context, region_weights = condition.context, _joined_region_weights(condition)
        cross_kvs: tuple[CrossAttentionKV | ContextInput, ...] = ()
        if context is not None and not project_context:
            cross_kvs = (ContextInput(context, condition.context_mask, region_weights),)
        elif context is not None:
            cross_kvs = tuple(block.project_kv(context, condition.context_mask, region_weights) for block in blocks)
        return BlockInputs(
            encoding=self._encode(_joined_positions(tokens, condition), mask, freqs),
            mask=None if mask is None else mask[:, None, None],
            cross_kvs=cross_kvs,
            pooled=pooled,
            token_condition=token_condition,
            reference=embedded,
            scale=scale,
        )

    def update_rope(
        self, precomputed: BlockInputs, tokens: Tokens, condition: Condition, freqs: Sequence[Tensor]
    ) -> BlockInputs:
        """Return `precomputed` with other rotary frequencies: all that a new time changes under rope scaling."""
        mask = _token_mask(precomputed.mask)
        encoding = self._encode(_joined_positions(tokens, condition), mask, freqs)
        if precomputed.pooled_attention:
            first = precomputed.pooled_attention[0]
            precomputed = self.with_context_drop(precomputed, first.pool, freqs, first.scale)
        return replace(precomputed, encoding=encoding)

    def make_token_pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> TokenPool:
        """Find the windows of context drop over the tokens; reference tokens are not averaged. Runs on the CPU."""
        from lumina_core.models.context_drop import make_token_pool  # needed by few requests

        mask, reference = joined_mask(tokens, condition.reference), condition.reference
        positions, mask = _joined_positions(tokens, condition).cpu(), None if mask is None else mask.cpu()
        if positions.shape[2] > 3:
            raise ShapeError(
                f"context_drop: got tokens with {positions.shape[2] - 3} further coordinates, expected none. Leave out "
                "context_drop."
            )
        num_unpooled = 0 if reference is None else reference.values.shape[1]
        pool = make_token_pool(self._encoded_positions(positions, mask), mask, window, num_unpooled)
        return pool.to(tokens.values.device)

    def with_context_drop(
        self,
        precomputed: BlockInputs,
        pool: TokenPool,
        freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> BlockInputs:
        """Return `precomputed` prepared for blocks that average keys and values; see `set_dropped_blocks`.

        Args:
            precomputed: result of `precompute`.
            pool: result of `make_token_pool`.
            freqs: as in `precompute`.
            scale: of the self-attention in these blocks; None: head_dim ** -0.5.
        """
        freqs = self.frequencies(pool.positions.device) if freqs is None else freqs
        encodings = self.position_encoding(pool.positions, freqs)
        return replace(precomputed, pooled_attention=tuple(pool.attention(encoding, scale) for encoding in encodings))

    def set_dropped_blocks(self, precomputed: BlockInputs, dropped: tuple[bool, ...]) -> BlockInputs:
        """Return `precomputed` with a flag per block: whether it averages keys and values."""
        return replace(precomputed, dropped_blocks=dropped)

    def with_block_cache(self, precomputed: BlockInputs, policy: BlockCache) -> BlockInputs:
        """Return `precomputed` with a new block cache, for consecutive evaluations of one integration."""
        from lumina_core.models.block_cache import BlockCacheState  # needed by few requests

        return replace(precomputed, block_cache=BlockCacheState(policy))

    def rope_context(self, tokens: Tokens, train_tokens: Tokens | None) -> RopeContext:
        """Return how far the tokens extend compared with those of training; both on the CPU."""
        train_lengths = None if train_tokens is None else self._axis_lengths(train_tokens)
        return RopeContext(
            self._axis_lengths(tokens), train_lengths, self.position_encoding.theta, self.config.head_dim
        )

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the trained rotary frequencies of the three axes."""
        return self.position_encoding.frequencies(device)

    def _embed(self, tokens: Tokens, t: Tensor | None, inputs: BlockInputs) -> tuple[Tensor, Tensor | None]:
        """Return the blocks' first input (B, N + R, C) and the modulation (B, A)."""
        x: Tensor = self.embed(tokens.values)
        if inputs.token_condition is not None:
            x = x + inputs.token_condition
        if inputs.reference is not None:
            x = torch.cat([x, inputs.reference], dim=1)
        if self.time_embed is None:
            return x, None
        if t is None:
            raise ShapeError("time: got None, expected (B,) in 0..1, because this backbone is time-conditioned")
        modulation: Tensor = self.time_embed(self.network_time(t))
        return x, modulation if inputs.pooled is None else modulation + inputs.pooled

    def _run_block(self, index: int, x: Tensor, modulation: Tensor | None, inputs: BlockInputs) -> Tensor:
        block, attention_inputs = self.blocks[index], inputs.of_block(index)
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, modulation, *attention_inputs, use_reentrant=False)
        else:
            x = block(x, modulation, *attention_inputs)
        return x

    def _run_cached(self, x: Tensor, modulation: Tensor | None, inputs: BlockInputs, cache: BlockCacheState) -> Tensor:
        """Run the blocks, except for items that reuse the cached residual of the blocks."""
        from lumina_core.models.block_cache import select_rows  # needed by few requests

        first_block: Any = self.blocks[0]

        def run_rows(rows: Tensor | None) -> Tensor:
            hidden, row_modulation, row_inputs = x, modulation, replace(inputs, block_cache=None)
            if rows is not None:
                hidden = x[rows]
                row_modulation, row_inputs = select_rows((modulation, row_inputs), rows, len(x))
            for index in range(self.num_layers):
                hidden = self._run_block(index, hidden, row_modulation, row_inputs)
            return hidden

        mask = _token_mask(inputs.mask)
        return cache.run_or_reuse(x, first_block.block_input(x, modulation), mask, run_rows)

    def _encode(
        self, positions: Tensor, mask: Tensor | None, freqs: Sequence[Tensor] | None
    ) -> tuple[AttentionTransform, ...]:
        """Encode positions (B, N + R, 3); mask as `joined_mask` returns it."""
        freqs = self.frequencies(positions.device) if freqs is None else freqs
        return tuple(self.position_encoding(self._encoded_positions(positions, mask), freqs))

    def _encoded_positions(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Return the positions that are encoded, if they are not the tokens' own."""
        return positions

    def _axis_lengths(self, tokens: Tokens) -> tuple[float, float, float]:
        """Return the number of tokens from the first to the last position along each axis."""
        positions, mask = self._encoded_positions(tokens.positions, tokens.mask), tokens.mask
        distinct = positions[:1] if mask is None and positions.stride(0) == 0 else positions
        real = distinct.flatten(0, 1) if mask is None else distinct[mask]
        first, second, third = (real.amax(dim=0) - real.amin(dim=0) + 1).tolist()
        return first, second, third

    def _check_shapes(self, tokens: Tokens, condition: Condition) -> None:
        config, reference = self.config, condition.reference
        batch, length = tokens.values.shape[:2]
        check_shape(tokens.values, (None, None, config.token_dim), "tokens")
        if reference is not None:
            check_shape(reference.values, (batch, None, config.token_dim), "reference tokens")
        for name, tensor, shape in (
            ("context", condition.context, (batch, None, config.cross_attention_dim)),
            ("pooled condition", condition.pooled, (batch, config.pooled_dim)),
            ("token condition", condition.token_condition, (batch, length, config.token_condition_dim)),
            ("reference condition", condition.reference_condition, (batch, None, config.token_condition_dim)),
        ):
            if tensor is not None and not shape[-1]:
                raise ShapeError(f"{name}: got {tuple(tensor.shape)}, expected none: this backbone takes no {name}")
            if tensor is not None:
                check_shape(tensor, shape, name)
        if condition.token_positions is not None:
            check_shape(condition.token_positions, (batch, length, None), "token positions")


def block_indices(indices: int | Sequence[int] | None, num_layers: int) -> list[int]:
    """Return block numbers from 0: of numbers, negative ones from the end; of a number n, the last n; None: all.

    Raises:
        ShapeError: there is no such block.
    """
    if isinstance(indices, int):
        if not 1 <= indices <= num_layers:
            raise ShapeError(f"indices: got the last {indices} blocks, expected 1 to {num_layers}")
        indices = range(num_layers - indices, num_layers)
    for index in indices or ():
        if not -num_layers <= index < num_layers:
            raise ShapeError(f"indices: got {index}, expected blocks from 0 to {num_layers - 1}")
    return [index % num_layers for index in (range(num_layers) if indices is None else indices)]


def _token_mask(mask: AttentionMask) -> Tensor | None:
    """Return the mask (B, N) of padded tokens; packed sequences have none."""
    return None if mask is None or isinstance(mask, Segments) else mask[:, 0, 0]


def joined_mask(tokens: Tokens, reference: Tokens | None) -> Tensor | None:
    """Return (B, N + R) bool over tokens and reference tokens, True for real ones; None without padding."""
    parts = [tokens] if reference is None else [tokens, reference]
    if all(part.mask is None for part in parts):
        return None
    return torch.cat([part.mask_or_ones() for part in parts], dim=1)


def proportional_scale(
    tokens: Tokens, reference: Tokens | None, train_length: int, head_dim: int, count_padding: bool = False
) -> float | Tensor:
    """Compute the scale of proportional attention from the real keys of each item; (B, 1, 1, 1) with padding.

    Args:
        tokens, reference: the keys.
        train_length: keys in training, at least 2.
        head_dim: channels of a head.
        count_padding: count padding too, as published.
    """
    mask = None if count_padding else joined_mask(tokens, reference)
    if mask is None:
        length = tokens.values.shape[1] + (0 if reference is None else reference.values.shape[1])
        return proportional_attn_scale(length, train_length, head_dim)
    return proportional_attn_scale(mask.sum(dim=1).view(-1, 1, 1, 1), train_length, head_dim)


def pooled_scale(pool: TokenPool, train_length: int, head_dim: int) -> float | Tensor:
    """Compute the scale of proportional attention over averaged keys: one key per window."""
    if pool.counts is None:
        return proportional_attn_scale(pool.positions.shape[1], train_length, head_dim)
    return proportional_attn_scale(pool.counts.view(-1, 1, 1, 1), train_length, head_dim)


def _joined_region_weights(condition: Condition) -> Tensor | None:
    """Return region weights (B, R, N + reference tokens); reference tokens read all regions equally."""
    weights, reference = condition.region_weights, condition.reference
    if weights is None or reference is None:
        return weights
    uniform = weights.new_full((*weights.shape[:2], reference.values.shape[1]), 1 / weights.shape[1])
    return torch.cat([weights, uniform], dim=2)


def _joined_positions(tokens: Tokens, condition: Condition) -> Tensor:
    """Return (B, N + R, 3 or more) positions of tokens and reference tokens; missing further coordinates are zero."""
    positions, added = tokens.positions, condition.token_positions
    if added is not None:
        width = max(positions.shape[2], added.shape[2])
        positions = _widen(positions, width) + _widen(added, width)
    if condition.reference is None:
        return positions
    reference = condition.reference.positions
    width = max(positions.shape[2], reference.shape[2])
    return torch.cat([_widen(positions, width), _widen(reference, width)], dim=1)


def _widen(positions: Tensor, width: int) -> Tensor:
    missing = width - positions.shape[2]
    return F.pad(positions, (0, missing)) if missing else positions


def _check_config(config: DiTConfig, modulation_dim: int) -> None:
    if config.hidden_size % config.num_heads:
        raise ConfigError(f"hidden_size: got {config.hidden_size}, expected a multiple of num_heads {config.num_heads}")
    if config.num_heads % (config.num_kv_heads or config.num_heads):
        raise ConfigError(
            f"num_heads: got {config.num_heads}, expected a multiple of num_kv_heads {config.num_kv_heads}"
        )
    if not config.token_dim:
        raise ConfigError(
            "token_dim: got 0, expected the width of the tokenizer's tokens. A recipe fills it in; set it if you build "
            "the backbone yourself."
        )
    if config.pooled_embed == "add" and modulation_dim and config.pooled_dim not in (0, modulation_dim):
        raise ConfigError(
            f"pooled_dim: got {config.pooled_dim}, expected the width of the modulation {modulation_dim} with "
            "`pooled_embed: add`. Give the conditioner that width, or write `pooled_embed: mlp`."
        )
