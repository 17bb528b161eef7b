"""Next-DiT, the backbone of Lumina-Next: tokens, time and condition -> hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.nn.attention import Attention, Memory
from lumina_core.nn.block import Block, FeedForward, hidden_width
from lumina_core.nn.embed import SummaryEmbedding, TimeEmbedding
from lumina_core.nn.rotary import Turn, check_split, frequencies, turn
from lumina_core.types import Condition, Hidden, Tokens


@dataclass(frozen=True)
class Prepared:
    """All that neither time nor the tokens' values change, computed once a request.

    Attributes:
        turned: rotary angles of the tokens (and of the context behind them).
        mask: (B, 1, 1, N) bool, or None where nothing is padded.
        memories: keys and values of the memory for each block, or empty.
        summary: (B, A) embedded summary, or None.
        context: (B, C, W) embedded context tokens, or None.
    """

    turned: Turn
    mask: Tensor | None
    memories: tuple[Memory, ...]
    summary: Tensor | None
    context: Tensor | None


class NextDiT(nn.Module):
    """As published in lumina_next_t2i_mini/models/nextdit.py, over tokens with explicit positions."""

    class Config(Settings):
        """Sizes. What other parts decide (the last three) is filled in when a model is built."""

        width: int = Field(ge=8, description="width of the tokens inside")
        depth: int = Field(ge=1, description="blocks")
        heads: int = Field(ge=1, description="query heads")
        kv_heads: int | None = Field(None, ge=1, description="key and value heads; None: as many as query heads")
        axes: tuple[int, int, int] = Field(description="channels of a head turned by time, row and column")
        layout: Literal["interleaved", "blocks"] = Field("blocks", description="interleaved: as in the published weights")
        base: float = Field(10000.0, gt=1, description="base of the rotary frequencies")
        qk_norm: bool = True
        eps: float = Field(1e-5, gt=0, description="of the norms")
        multiple_of: int = Field(256, ge=1, description="the feed-forward's width is rounded up to a multiple of it")
        multiplier: float | None = Field(None, gt=0, description="of the feed-forward's width")
        timed: bool = Field(True, description="False: no time and no modulation, for recognition")
        weighted_pre_norm: bool = Field(True, description="False: as in the published ImageNet models")
        summary: Literal["norm", "plain"] = Field("norm", description="plain: added as it is, as class labels are published")
        checkpoint_blocks: bool = Field(False, description="compute each block again in the backward pass to save memory")
        backend: Literal["auto", "fused", "matmul"] = Field("auto", description="how attention is computed")
        token_width: int = Field(0, ge=0)
        memory_width: int = Field(0, ge=0)
        summary_width: int = Field(0, ge=0)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        _check(config)
        self.modulation_width = min(config.width, 1024) if config.timed else 0
        self.embed = nn.Linear(config.token_width, config.width)
        nn.init.zeros_(self.embed.bias)
        self.time = TimeEmbedding(self.modulation_width) if config.timed else None
        embedded = config.summary_width and config.timed and config.summary == "norm"
        self.summary = SummaryEmbedding(config.summary_width, self.modulation_width) if embedded else None
        self.blocks = nn.ModuleList(self._block() for _ in range(config.depth))

    def prepare(
        self, tokens: Tokens, condition: Condition, rates: Sequence[Tensor] | None = None
    ) -> Prepared:
        """What stays the same through all evaluations of a request.

        Args:
            rates: rotary frequencies of each axis, for canvases larger than trained; None: the model's own.

        Raises:
            ShapeError: tokens or condition have not the widths that this backbone was built for.
        """
        self._check(tokens, condition)
        context = condition.context
        positions = tokens.positions if context is None else torch.cat([tokens.positions, context.positions], dim=1)
        config = self.config
        return Prepared(
            turned=turn(positions, rates or frequencies(config.axes, config.base), config.layout),
            mask=_key_mask(tokens, context),
            memories=self._memories(condition),
            summary=condition.summary if self.summary is None or condition.summary is None else self.summary(condition.summary),
            context=None if context is None else self.embed(context.values),
        )

    def forward(
        self, tokens: Tokens, time: Tensor | None, condition: Condition, *, prepared: Prepared | None = None
    ) -> Hidden:
        """Noisy tokens (B, N, D) at time (B,) in 0..1 -> hidden (B, N, W); time None where the backbone is not timed."""
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
        return tuple(block.remember(condition.memory, condition.memory_mask) for block in self.blocks)

    def _block(self) -> Block:
        config = self.config
        kv_heads = config.kv_heads or config.heads
        attention = Attention(
            config.width, config.heads, kv_heads, config.memory_width, config.qk_norm, config.backend
        )
        feed = FeedForward(config.width, hidden_width(config.width, config.multiple_of, config.multiplier))
        return Block(
            attention, feed, config.width, config.memory_width, self.modulation_width, config.eps, config.weighted_pre_norm
        )

    def _check(self, tokens: Tokens, condition: Condition) -> None:
        config = self.config
        if tokens.values.shape[-1] != config.token_width:
            raise ShapeError(f"tokens hold {tokens.values.shape[-1]} numbers; this backbone takes {config.token_width}")
        for name, tensor, width in (
            ("memory", condition.memory, config.memory_width), ("summary", condition.summary, config.summary_width),
        ):  # fmt: skip
            if tensor is not None and tensor.shape[-1] != width:
                raise ShapeError(f"the {name} is {tensor.shape[-1]} wide; this backbone takes {width or 'none'}")


def _check(config: NextDiT.Config) -> None:
    if config.width % config.heads or config.heads % (config.kv_heads or config.heads):
        raise ConfigError(
            f"core.next_dit: width {config.width} must be a multiple of heads {config.heads}, and heads of kv_heads {config.kv_heads}"
        )
    if not config.token_width:
        raise ConfigError("core.next_dit: token_width is 0; it is the tokenizer's width, filled in when a model is built")
    check_split(config.axes, config.width // config.heads, config.layout)


def _key_mask(tokens: Tokens, context: Tokens | None) -> Tensor | None:
    """(B, 1, 1, N) bool over tokens and context, or None where nothing is padded."""
    if tokens.mask is None and (context is None or context.mask is None):
        return None
    parts = [tokens] if context is None else [tokens, context]
    real = [
        torch.ones(part.values.shape[:2], dtype=torch.bool, device=part.values.device) if part.mask is None else part.mask
        for part in parts
    ]
    return torch.cat(real, dim=1)[:, None, None]
