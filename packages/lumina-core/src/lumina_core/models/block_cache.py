"""A step cache in the manner of TeaCache (arXiv 2411.19108): where little has changed, blocks are not asked again.

What enters the first block, scaled by its modulation, tells how much the answer is going to change. While its changes
since the last evaluation that was computed add up to less than a threshold, the blocks are left out, and what they
added then is added again. Ours differs: each row of a batch decides for itself, so that company changes nothing, and
the change is taken as it is, without the polynomial that TeaCache fits to a model.
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
    """Compute again once the changes since then reach a threshold, or after so many evaluations without."""

    class Config(Settings):
        """When the blocks are asked again."""

        threshold: float = Field(
            0.1, ge=0, description="sum of relative changes from which on the blocks are asked again; 0: always"
        )
        max_skipped: int = Field(4, ge=1, description="evaluations in a row that may be left out")

    def __init__(self, config: Config) -> None:
        self.config = config

    def should_recompute(self, change: Tensor, num_skipped: Tensor) -> Tensor:
        """Which rows are computed, see `StepCache`."""
        return (change >= self.config.threshold) | (num_skipped >= self.config.max_skipped)


class BlockCacheState:
    """What one batch of requests remembers from evaluation to evaluation: inputs, changes, and what blocks added.

    Attributes:
        asked: evaluations.
        reused: (B,) how many of them each row did without the blocks; None before the first.
    """

    def __init__(self, policy: BlockCache) -> None:
        self.policy, self.nfe = policy, 0
        self.cached_nfe: Tensor | None = None
        self._previous_input: Tensor | None = None
        self._accumulated_change = self._num_skipped = self._residual = torch.zeros(0)

    def run_or_reuse(
        self, x: Tensor, block_input: Tensor, mask: Tensor | None, run_blocks: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """x (B, N, W) through the blocks, or with what they added before.

        Args:
            entering: (B, N, W) what enters the first block.
            real: (B, N) bool, or None where nothing is padded; padding has no say.
            blocks: gives what comes out of them for these rows (numbers), None for all.
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
        """(B,) bool: whose blocks are asked."""
        if self._previous_input is None:
            self._accumulated_change = block_input.new_zeros(len(block_input), dtype=torch.float32)
            self._num_skipped = torch.zeros_like(self._accumulated_change)
            self.cached_nfe = torch.zeros_like(self._accumulated_change)
            return torch.ones_like(self._accumulated_change, dtype=torch.bool)
        weights = None if mask is None else mask[..., None]
        self._accumulated_change = self._accumulated_change + _l1_norm(
            block_input - self._previous_input, weights
        ) / _l1_norm(self._previous_input, weights)
        return self.policy.should_recompute(self._accumulated_change, self._num_skipped)

    def _update_counts(self, recompute: Tensor) -> None:
        assert self.cached_nfe is not None
        self.cached_nfe = self.cached_nfe + ~recompute
        self._accumulated_change = self._accumulated_change.masked_fill(recompute, 0.0)
        self._num_skipped = (self._num_skipped + 1).masked_fill(recompute, 0.0)


def select_rows(precomputed: Any, rows: Tensor, batch: int) -> Any:
    """Of what was precomputed for `batch` items, that of these rows; what all items share stays."""
    if isinstance(precomputed, Tensor):
        return precomputed[rows] if precomputed.ndim and precomputed.shape[0] == batch else precomputed
    if isinstance(precomputed, tuple):
        return tuple(select_rows(one, rows, batch) for one in precomputed)
    if is_dataclass(precomputed) and not isinstance(precomputed, type):
        selected = {
            field.name: select_rows(getattr(precomputed, field.name), rows, batch) for field in fields(precomputed)
        }
        return replace(precomputed, **selected)
    return precomputed


def _l1_norm(x: Tensor, weights: Tensor | None) -> Tensor:
    magnitude = x.float().abs() if weights is None else x.float().abs() * weights
    return magnitude.flatten(1).sum(dim=1).clamp_min(1e-12)
