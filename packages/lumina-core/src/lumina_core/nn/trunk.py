"""What Next-DiT and Flag-DiT share: embeddings and a row of blocks over tokens; a child says what a block is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.fitting import StepCache
from lumina_core.nn.attention import Attention, Memory
from lumina_core.nn.block import FeedForward, hidden_width
from lumina_core.nn.context_drop import Pool, Pooling, pool_of
from lumina_core.nn.embed import SummaryEmbedding, TimeEmbedding
from lumina_core.nn.linear import Linear
from lumina_core.nn.prepare import Prepared, joined_mask, reach
from lumina_core.nn.rotary import Turn
from lumina_core.nn.step_cache import Reuse, of_rows
from lumina_core.types import Canvas, Condition, Hidden, Tokens


class Sizes(Settings):
    """What every backbone is asked. What other parts decide (the last three) is filled in when a model is built."""

    width: int = Field(ge=8, description="width of the tokens inside")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="query heads")
    kv_heads: int | None = Field(None, ge=1, description="key and value heads; None: as many as query heads")
    base: float = Field(10000.0, gt=1, description="base of the rotary frequencies")
    qk_norm: bool = Field(True, description="LayerNorm on queries and keys")
    eps: float = Field(1e-5, gt=0, description="of the norms")
    multiple_of: int = Field(256, ge=1, description="the feed-forward's width is rounded up to a multiple of it")
    multiplier: float | None = Field(None, gt=0, description="of the feed-forward's width")
    timed: bool = Field(True, description="False: no time and no modulation, for recognition")
    summary: Literal["norm", "plain"] = Field(
        "norm", description="plain: added as it is, as class labels are published"
    )
    checkpoint_blocks: bool = Field(False, description="compute each block again in the backward pass to save memory")
    backend: Literal["auto", "fused", "matmul"] = Field("auto", description="how attention is computed")
    token_width: int = Field(0, ge=0, description="the tokenizer's; filled in")
    memory_width: int = Field(0, ge=0, description="the conditioners'; filled in")
    summary_width: int = Field(0, ge=0, description="the conditioners', together; filled in")


class Trunk(nn.Module):
    """Tokens, time and condition -> hidden, through blocks that take (x, turned, mask, memory, modulation, scale).

    Args:
        modulation_width: of the vector that modulates every block; 0: none.
        block: makes one block, which also has `remember(memory, real)` for the memory's keys and values.
    """

    config: Sizes

    def __init__(self, config: Sizes, modulation_width: int, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        _check(config, modulation_width)
        self.config, self.modulation_width = config, modulation_width
        self.embed = Linear(config.token_width, config.width)
        nn.init.zeros_(self.embed.bias)
        self.time = TimeEmbedding(modulation_width) if modulation_width else None
        embedded = config.summary_width and modulation_width and config.summary == "norm"
        self.summary = SummaryEmbedding(config.summary_width, modulation_width) if embedded else None
        self.blocks = nn.ModuleList(block() for _ in range(config.depth))

    def prepare(
        self, tokens: Tokens, condition: Condition, rates: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> Prepared:  # fmt: skip
        """What stays the same through all evaluations of a request.

        Args:
            rates: rotary frequencies of each axis, for canvases larger than trained; None: the model's own.
            scale: of the self-attention, (B, 1, 1, 1) for one an item; None: head width ** -0.5.

        Raises:
            ShapeError: tokens or condition have not the widths that this backbone was built for.
        """
        self._check_widths(tokens, condition)
        context, summary = condition.context, condition.summary
        real = joined_mask(tokens, context)
        own = self.frequencies(tokens.positions.device) if rates is None else rates
        return Prepared(
            turned=self._turned(_joined(tokens, context), real, own),
            mask=None if real is None else real[:, None, None],
            memories=self._memories(condition),
            summary=summary if self.summary is None or summary is None else self.summary(summary),
            context=None if context is None else self.embed(context.values),
            scale=scale,
        )

    def turned_again(
        self, prepared: Prepared, tokens: Tokens, condition: Condition, rates: Sequence[Tensor]
    ) -> Prepared:
        """What was prepared for these tokens and this condition, with other rotary frequencies."""
        real = None if prepared.mask is None else prepared.mask[:, 0, 0]
        turned, pooling = self._turned(_joined(tokens, condition.context), real, rates), prepared.pooling
        if pooling is not None:
            pooling = replace(pooling, turned=self._turn_at(pooling.pool.positions, rates))
        return replace(prepared, turned=turned, pooling=pooling)

    def pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> Pool:
        """Windows over the tokens, a context left alone; read on the CPU, once a request."""
        real, context = joined_mask(tokens, condition.context), condition.context
        positions, real = _joined(tokens, context).cpu(), None if real is None else real.cpu()
        free = 0 if context is None else context.values.shape[1]
        return pool_of(self._places(positions, real), real, window, free).to(tokens.values.device)

    def with_pool(
        self, prepared: Prepared, pool: Pool, rates: Sequence[Tensor] | None = None, scale: float | Tensor | None = None
    ) -> Prepared:
        """What was prepared, ready for blocks that average their keys and values; `with_pooled` says which do.

        Args:
            scale: of the self-attention in these blocks; None: head width ** -0.5.
        """
        own = self.frequencies(pool.positions.device) if rates is None else rates
        return replace(prepared, pooling=Pooling(pool, self._turn_at(pool.positions, own), scale))

    def with_pooled(self, prepared: Prepared, which: tuple[bool, ...]) -> Prepared:
        """What was prepared, with these blocks averaging."""
        return replace(prepared, pooled=which)

    def with_reuse(self, prepared: Prepared, policy: StepCache) -> Prepared:
        """What was prepared, with a step cache of its own: for the evaluations of one way, one after another."""
        return replace(prepared, reuse=Reuse(policy))

    def canvas(self, tokens: Tokens, trained: Tokens | None) -> Canvas:
        """How far tokens reach beside those of training; both on the CPU."""
        known = None if trained is None else self._reach(trained)
        return Canvas(self._reach(tokens), known, self.config.base, self.config.width // self.config.heads)

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies of the three axes, float64."""
        raise NotImplementedError

    def forward(
        self, tokens: Tokens, time: Tensor | None, condition: Condition, *, prepared: Prepared | None = None
    ) -> Hidden:
        """Noisy tokens (B, N, D) at time (B,) in 0..1 -> hidden (B, N, W); time None where it is not timed."""
        ready = self.prepare(tokens, condition) if prepared is None else prepared
        modulation = self._modulation(time, ready.summary)
        x = self.embed(tokens.values)
        if ready.context is not None:
            x = torch.cat([x, ready.context], dim=1)
        said = None if modulation is None else F.silu(modulation)
        x = self._through(x, said, ready) if ready.reuse is None else self._remembered(x, said, ready, ready.reuse)
        return Hidden(x[:, : tokens.values.shape[1]], modulation)

    def _through(self, x: Tensor, said: Tensor | None, ready: Prepared) -> Tensor:
        for place, block in enumerate(self.blocks):
            memory = ready.memories[place] if ready.memories else None
            arguments = (x, ready.turned, ready.mask, memory, said, ready.scale, ready.of_block(place))
            if self.config.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return x

    def _remembered(self, x: Tensor, said: Tensor | None, ready: Prepared, reuse: Reuse) -> Tensor:
        """Through the blocks, but for rows in which too little has changed."""
        first: Any = self.blocks[0]

        def blocks(rows: Tensor | None) -> Tensor:
            if rows is None:
                return self._through(x, said, ready)
            picked = of_rows(replace(ready, reuse=None), rows, len(x))
            return self._through(x[rows], None if said is None else said[rows], picked)

        real = None if ready.mask is None else ready.mask[:, 0, 0]
        return reuse.through(x, first.entering(x, said), real, blocks)

    def _turned(self, positions: Tensor, real: Tensor | None, rates: Sequence[Tensor]) -> Turn:
        """Angles of the tokens and of the context behind them; `real` (B, N) as `joined_mask` gives it."""
        return self._turn_at(self._places(positions, real), rates)

    def _turn_at(self, places: Tensor, rates: Sequence[Tensor]) -> Turn:
        raise NotImplementedError

    def _reach(self, tokens: Tokens) -> tuple[float, float, float]:
        return reach(self._places(tokens.positions, tokens.mask), tokens.mask)

    def _places(self, positions: Tensor, real: Tensor | None) -> Tensor:
        """Where tokens count as standing."""
        return positions

    def _modulation(self, time: Tensor | None, summary: Tensor | None) -> Tensor | None:
        if self.time is None:
            return None
        if time is None:
            raise ShapeError("this backbone is timed; give it a time (B,) in 0..1")
        embedded: Tensor = self.time(time)
        return embedded if summary is None else embedded + summary

    def _memories(self, condition: Condition) -> tuple[Memory, ...]:
        if condition.memory is None:
            return ()
        blocks: Iterable[Any] = self.blocks  # torch types the members as mere modules
        shares = _shares(condition)
        return tuple(block.remember(condition.memory, condition.memory_mask, shares) for block in blocks)

    def _check_widths(self, tokens: Tokens, condition: Condition) -> None:
        config, context = self.config, condition.context
        for name, tensor, width in (
            ("tokens", tokens.values, config.token_width),
            ("context", None if context is None else context.values, config.token_width),
            ("memory", condition.memory, config.memory_width),
            ("summary", condition.summary, config.summary_width),
        ):
            if tensor is not None and tensor.shape[-1] != width:
                raise ShapeError(f"the {name}: {tensor.shape[-1]} numbers wide; this backbone takes {width or 'none'}")


def _shares(condition: Condition) -> Tensor | None:
    """Of the tokens and of the context behind them, which reads every region alike."""
    shares = condition.shares
    if shares is None or condition.context is None:
        return shares
    alike = shares.new_full((*shares.shape[:2], condition.context.values.shape[1]), 1 / shares.shape[1])
    return torch.cat([shares, alike], dim=2)


def _joined(tokens: Tokens, context: Tokens | None) -> Tensor:
    return tokens.positions if context is None else torch.cat([tokens.positions, context.positions], dim=1)


def branches(config: Sizes) -> tuple[Attention, FeedForward]:
    """The two branches of a block of these sizes."""
    attention = Attention(
        config.width, config.heads, config.kv_heads or config.heads, config.memory_width, config.qk_norm, config.backend
    )
    return attention, FeedForward(config.width, hidden_width(config.width, config.multiple_of, config.multiplier))


def _check(config: Sizes, modulation_width: int) -> None:
    if config.width % config.heads or config.heads % (config.kv_heads or config.heads):
        raise ConfigError(
            f"the backbone's width {config.width} must be a multiple of heads {config.heads}, "
            f"and heads of kv_heads {config.kv_heads}"
        )
    if not config.token_width:
        raise ConfigError(
            "the backbone's token_width is 0; it is the tokenizer's width, filled in when a model is built"
        )
    if config.summary == "plain" and modulation_width and config.summary_width not in (0, modulation_width):
        raise ConfigError(
            f"a plain summary is added to the modulation, which is {modulation_width} wide; this one is "
            f"{config.summary_width}: give the conditioner that width, or write `summary: norm`"
        )
