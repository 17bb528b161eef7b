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
from lumina_core.fitting import StepCache


class Residual:
    """Compute again once the changes since then reach a threshold, or after so many evaluations without."""

    class Config(Settings):
        """When the blocks are asked again."""

        threshold: float = Field(
            0.1, ge=0, description="sum of relative changes from which on the blocks are asked again; 0: always"
        )
        most: int = Field(4, ge=1, description="evaluations in a row that may be left out")

    def __init__(self, config: Config) -> None:
        self.config = config

    def again(self, change: Tensor, left_out: Tensor) -> Tensor:
        """Which rows are computed, see `StepCache`."""
        return (change >= self.config.threshold) | (left_out >= self.config.most)


class Reuse:
    """What one batch of requests remembers from evaluation to evaluation: inputs, changes, and what blocks added.

    Attributes:
        asked: evaluations.
        reused: (B,) how many of them each row did without the blocks; None before the first.
    """

    def __init__(self, policy: StepCache) -> None:
        self.policy, self.asked = policy, 0
        self.reused: Tensor | None = None
        self._before: Tensor | None = None
        self._change = self._left_out = self._added = torch.zeros(0)

    def through(
        self, x: Tensor, entering: Tensor, real: Tensor | None, blocks: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """x (B, N, W) through the blocks, or with what they added before.

        Args:
            entering: (B, N, W) what enters the first block.
            real: (B, N) bool, or None where nothing is padded; padding has no say.
            blocks: gives what comes out of them for these rows (numbers), None for all.
        """
        again, before = self._due(entering, real), self._before
        self._before, self.asked = entering, self.asked + 1
        if before is None or bool(again.all()):
            out = blocks(None)
            self._added = out - x
        elif not bool(again.any()):
            out = x + self._added
        else:
            rows = again.nonzero()[:, 0]
            self._added = self._added.index_copy(0, rows, blocks(rows) - x[rows])
            out = x + self._added
        self._counted(again)
        return out

    def _due(self, entering: Tensor, real: Tensor | None) -> Tensor:
        """(B,) bool: whose blocks are asked."""
        if self._before is None:
            self._change = entering.new_zeros(len(entering), dtype=torch.float32)
            self._left_out = torch.zeros_like(self._change)
            self.reused = torch.zeros_like(self._change)
            return torch.ones_like(self._change, dtype=torch.bool)
        weights = None if real is None else real[..., None]
        self._change = self._change + _size(entering - self._before, weights) / _size(self._before, weights)
        return self.policy.again(self._change, self._left_out)

    def _counted(self, again: Tensor) -> None:
        assert self.reused is not None
        self.reused = self.reused + ~again
        self._change = self._change.masked_fill(again, 0.0)
        self._left_out = (self._left_out + 1).masked_fill(again, 0.0)


def of_rows(prepared: Any, rows: Tensor, batch: int) -> Any:
    """Of what was prepared for `batch` items, that of these rows; what all items share stays."""
    if isinstance(prepared, Tensor):
        return prepared[rows] if prepared.ndim and prepared.shape[0] == batch else prepared
    if isinstance(prepared, tuple):
        return tuple(of_rows(one, rows, batch) for one in prepared)
    if is_dataclass(prepared) and not isinstance(prepared, type):
        taken = {field.name: of_rows(getattr(prepared, field.name), rows, batch) for field in fields(prepared)}
        return replace(prepared, **taken)
    return prepared


def _size(x: Tensor, weights: Tensor | None) -> Tensor:
    size = x.float().abs() if weights is None else x.float().abs() * weights
    return size.flatten(1).sum(dim=1).clamp_min(1e-12)
