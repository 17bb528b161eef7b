"""What Next-DiT and Flag-DiT share: embeddings and a row of blocks over tokens; a child says what a block is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.nn.attention import Attention, Memory
from lumina_core.nn.block import FeedForward, hidden_width
from lumina_core.nn.embed import SummaryEmbedding, TimeEmbedding
from lumina_core.nn.prepare import Prepared, joined_mask
from lumina_core.nn.rotary import Turn
from lumina_core.types import Condition, Hidden, Tokens


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
    """Tokens, time and condition -> hidden, through blocks that all take (x, turned, mask, memory, modulation).

    Args:
        modulation_width: of the vector that modulates every block; 0: none.
        block: makes one block, which also has `remember(memory, real)` for the memory's keys and values.
    """

    config: Sizes

    def __init__(self, config: Sizes, modulation_width: int, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        _check(config, modulation_width)
        self.config, self.modulation_width = config, modulation_width
        self.embed = nn.Linear(config.token_width, config.width)
        nn.init.zeros_(self.embed.bias)
        self.time = TimeEmbedding(modulation_width) if modulation_width else None
        embedded = config.summary_width and modulation_width and config.summary == "norm"
        self.summary = SummaryEmbedding(config.summary_width, modulation_width) if embedded else None
        self.blocks = nn.ModuleList(block() for _ in range(config.depth))

    def prepare(self, tokens: Tokens, condition: Condition, rates: Sequence[Tensor] | None = None) -> Prepared:
        """What stays the same through all evaluations of a request.

        Args:
            rates: rotary frequencies of each axis, for canvases larger than trained; None: the model's own.

        Raises:
            ShapeError: tokens or condition have not the widths that this backbone was built for.
        """
        self._check_widths(tokens, condition)
        context, summary = condition.context, condition.summary
        real = joined_mask(tokens, context)
        return Prepared(
            turned=self._turned(tokens, context, real, rates),
            mask=None if real is None else real[:, None, None],
            memories=self._memories(condition),
            summary=summary if self.summary is None or summary is None else self.summary(summary),
            context=None if context is None else self.embed(context.values),
        )

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
        for place, block in enumerate(self.blocks):
            arguments = (x, ready.turned, ready.mask, ready.memories[place] if ready.memories else None, said)
            if self.config.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return Hidden(x[:, : tokens.values.shape[1]], modulation)

    def _turned(
        self, tokens: Tokens, context: Tokens | None, real: Tensor | None, rates: Sequence[Tensor] | None
    ) -> Turn:
        """Angles of the tokens and of the context behind them; `real` (B, N) as `joined_mask` gives it."""
        raise NotImplementedError

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
        return tuple(block.remember(condition.memory, condition.memory_mask) for block in blocks)

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
