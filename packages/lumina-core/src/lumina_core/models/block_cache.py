"""Block cache after TeaCache (arXiv 2411.19108): reuse the residual of the blocks while their input changes little.

The relative change of the first block's modulated input predicts the change of the output. While these changes since
the last full evaluation add up to less than a threshold, the blocks are skipped and their last residual is added again.
Two differences from TeaCache: each item of a batch decides for itself, so that results do not depend on its neighbours,
and changes are used as they are, without a polynomial fitted to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.protocols import BlockCache


class ThresholdPolicy:
    """Recompute when the accumulated change reaches a threshold, or after a number of skipped evaluations."""

    class Config(Settings):
        """When blocks are recomputed."""

        threshold: float = Field(
            0.1, ge=0, description="sum of relative changes at which blocks are recomputed; 0: always"
        )
        max_skipped: int = Field(4, ge=1, description="evaluations in a row that may be skipped")

    def __init__(self, config: Config) -> None:
        self.config = config

    def should_recompute(self, change: Tensor, num_skipped: Tensor) -> Tensor:
        """Return which items are recomputed; see `protocols.BlockCache`."""
        return (change >= self.config.threshold) | (num_skipped >= self.config.max_skipped)


class BlockCacheState:
    """State of one batch between evaluations: inputs, accumulated changes, and residuals of the blocks.

    Attributes:
        nfe: evaluations.
        cached_nfe: (B,) evaluations in which an item skipped the blocks; None before the first evaluation.
    """

    def __init__(self, policy: BlockCache) -> None:
        self.policy, self.nfe = policy, 0
        self.cached_nfe: Tensor | None = None
        self._previous_input: Tensor | None = None
        self._accumulated_change = self._num_skipped = self._residual = torch.zeros(0)

    def run_or_reuse(
        self, x: Tensor, block_input: Tensor, mask: Tensor | None, run_blocks: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """Return x after the blocks, or x plus their last residual.

        Args:
            x: (B, N, C).
            block_input: (B, N, C), input of the first block's attention.
            mask: (B, N) bool, or None without padding, which does not count as change.
            run_blocks: returns the output of the blocks for some items (indices), or for all (None).
        """
        recompute, previous_input = self._rows_to_recompute(block_input, mask), self._previous_input
        self._previous_input, self.nfe = block_input, self.nfe + 1
        if previous_input is None or bool(recompute.all()):
            out = run_blocks(None)
            self._residual = out - x
        elif not bool(recompute.any()):
            out = x + self._residual
        else:
            rows = recompute.nonzero()[:, 0]
            self._residual = self._residual.index_copy(0, rows, run_blocks(rows) - x[rows])
            out = x + self._residual
        self._update_counts(recompute)
        return out

    def _rows_to_recompute(self, block_input: Tensor, mask: Tensor | None) -> Tensor:
        """Return (B,) bool."""
        if self._previous_input is None:
            self._accumulated_change = block_input.new_zeros(len(block_input), dtype=torch.float32)
            self._num_skipped = torch.zeros_like(self._accumulated_change)
            self.cached_nfe = torch.zeros_like(self._accumulated_change)
            return torch.ones_like(self._accumulated_change, dtype=torch.bool)
        weights = None if mask is None else mask[..., None]
        change = _l1_norm(block_input - self._previous_input, weights) / _l1_norm(self._previous_input, weights)
        self._accumulated_change = self._accumulated_change + change
        return self.policy.should_recompute(self._accumulated_change, self._num_skipped)

    def _update_counts(self, recompute: Tensor) -> None:
        assert self.cached_nfe is not None
        self.cached_nfe = self.cached_nfe + ~recompute
        self._accumulated_change = self._accumulated_change.masked_fill(recompute, 0.0)
        self._num_skipped = (self._num_skipped + 1).masked_fill(recompute, 0.0)


def select_rows(precomputed: Any, rows: Tensor, batch: int) -> Any:
    """Select items of everything that was precomputed for a batch; tensors without a batch axis stay as they are.

    Args:
        precomputed: tensors, tuples and dataclasses of them; other values are returned unchanged.
        rows: (B',) int64.
        batch: B.
    """
    if isinstance(precomputed, Tensor):
        return precomputed[rows] if precomputed.ndim and precomputed.shape[0] == batch else precomputed
    if isinstance(precomputed, tuple):
        return tuple(select_rows(item, rows, batch) for item in precomputed)
    if is_dataclass(precomputed) and not isinstance(precomputed, type):
        names = [field.name for field in fields(precomputed)]
        return replace(precomputed, **{name: select_rows(getattr(precomputed, name), rows, batch) for name in names})
    return precomputed


def _l1_norm(x: Tensor, weights: Tensor | None) -> Tensor:
    magnitude = x.float().abs() if weights is None else x.float().abs() * weights
    return magnitude.flatten(1).sum(dim=1).clamp_min(1e-12)
