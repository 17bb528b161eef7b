"""What a backbone computes once a request: angles, masks, the memory's keys and values, the embedded summary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.nn.attend import proportional
from lumina_core.nn.attention import Memory
from lumina_core.nn.context_drop import Pool, Pooling
from lumina_core.nn.rotary import Turn
from lumina_core.nn.step_cache import Reuse
from lumina_core.types import Tokens


@dataclass(frozen=True)
class Prepared:
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

    turned: Turn
    mask: Tensor | None
    memories: tuple[Memory, ...]
    summary: Tensor | None
    context: Tensor | None
    scale: float | Tensor | None = None
    pooling: Pooling | None = None
    pooled: tuple[bool, ...] = ()
    reuse: Reuse | None = None

    def of_block(self, place: int) -> Pooling | None:
        """The pooling of a block, or None where it does not average now."""
        return self.pooling if self.pooled and self.pooled[place] else None


def joined_mask(tokens: Tokens, context: Tokens | None) -> Tensor | None:
    """(B, N) bool over tokens and the context behind them, True for a real one; None where nothing is padded."""
    parts = [tokens] if context is None else [tokens, context]
    if all(part.mask is None for part in parts):
        return None
    return torch.cat([_real(part) for part in parts], dim=1)


def proportional_scale(
    tokens: Tokens, context: Tokens | None, trained: int, head_width: int, padded: bool = False
) -> float | Tensor:
    """The scale of proportional attention by the keys that each item really has; (B, 1, 1, 1) where some are padded.

    Args:
        trained: keys in training, at least 2.
        padded: count padding too, as published.
    """
    real = None if padded else joined_mask(tokens, context)
    if real is None:
        length = tokens.values.shape[1] + (0 if context is None else context.values.shape[1])
        return proportional(length, trained, head_width)
    return proportional(real.sum(dim=1).view(-1, 1, 1, 1), trained, head_width)


def pooled_scale(pool: Pool, trained: int, head_width: int) -> float | Tensor:
    """The scale of proportional attention over averaged keys: it counts those that the softmax sees."""
    if pool.counts is None:
        return proportional(pool.positions.shape[1], trained, head_width)
    return proportional(pool.counts.view(-1, 1, 1, 1), trained, head_width)


def reach(positions: Tensor, real: Tensor | None) -> tuple[float, float, float]:
    """Tokens from the first to the last place along each axis, of positions (B, N, 3) on the CPU."""
    places = positions[:1] if real is None and positions.stride(0) == 0 else positions
    kept = places.flatten(0, 1) if real is None else places[real]
    first, second, third = (kept.amax(dim=0) - kept.amin(dim=0) + 1).tolist()
    return first, second, third


def _real(part: Tokens) -> Tensor:
    if part.mask is not None:
        return part.mask
    return torch.ones(part.values.shape[:2], dtype=torch.bool, device=part.values.device)
