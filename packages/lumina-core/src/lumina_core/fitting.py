"""Contracts of what fits attention to a canvas: a backbone whose positions can be scaled, and averaged context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lumina_core.types import Canvas, Condition, Tokens


class Scalable(Protocol):
    """A backbone with rotary positions, whose canvas may be larger than trained: see `Extrapolation`."""

    def canvas(self, tokens: Tokens, trained: Tokens | None) -> Canvas:
        """How far the tokens reach beside those of training."""
        ...

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies of the three axes, float64."""
        ...

    def prepare(
        self, tokens: Tokens, condition: Condition, rates: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> Any:  # fmt: skip
        """As a backbone's, with other rotary frequencies, and another scale of the self-attention."""
        ...

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        ...

    def pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> Any:
        """How tokens are averaged over windows."""
        ...

    def with_pool(
        self, prepared: Any, pool: Any, rates: Sequence[Tensor] | None = None, scale: float | Tensor | None = None
    ) -> Any:
        """What was prepared, ready for blocks that average their keys and values."""
        ...

    def with_pooled(self, prepared: Any, which: tuple[bool, ...]) -> Any:
        """What was prepared, with these blocks averaging: once a step."""
        ...

    def with_reuse(self, prepared: Any, policy: StepCache) -> Any:
        """What was prepared, with a memory from evaluation to evaluation, in which `prepared.reuse` counts."""
        ...

    def turned_again(self, prepared: Any, tokens: Tokens, condition: Condition, rates: Sequence[Tensor]) -> Any:
        """What was prepared, with other rotary frequencies: all that a change of time costs."""
        ...


class StepCache(Protocol):
    """When the blocks of a backbone are asked again, instead of adding once more what they added the last time."""

    def again(self, change: Tensor, left_out: Tensor) -> Tensor:
        """Which rows are computed, (B,) bool; each decides by its own numbers alone.

        Args:
            change: (B,) float, sum of the relative changes of what enters the blocks since they were last asked.
            left_out: (B,) float, evaluations since then that did without them.
        """
        ...


class ContextDrop(Protocol):
    """Which blocks average their keys and values over space, and when."""

    window: tuple[int, int, int]
    """Token pitches of a window along the axes."""

    def pooled(self, depth: int, time: float) -> tuple[bool, ...]:
        """For each block whether it averages at this time (0 noise, 1 data)."""
        ...
