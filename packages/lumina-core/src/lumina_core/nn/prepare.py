"""What a backbone computes once a request: angles, masks, the memory's keys and values, the embedded summary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.nn.attention import Memory
from lumina_core.nn.rotary import Turn
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
    """

    turned: Turn
    mask: Tensor | None
    memories: tuple[Memory, ...]
    summary: Tensor | None
    context: Tensor | None


def joined_mask(tokens: Tokens, context: Tokens | None) -> Tensor | None:
    """(B, N) bool over tokens and the context behind them, True for a real one; None where nothing is padded."""
    parts = [tokens] if context is None else [tokens, context]
    if all(part.mask is None for part in parts):
        return None
    return torch.cat([_real(part) for part in parts], dim=1)


def _real(part: Tokens) -> Tensor:
    if part.mask is not None:
        return part.mask
    return torch.ones(part.values.shape[:2], dtype=torch.bool, device=part.values.device)
