"""A class label -> Condition: one row of a table a class, and one more for having said nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.types import Condition


class LabelConditioner(nn.Module):
    """Class numbers 0..classes-1 to a summary (B, width); the last row is silence, as in the published models."""

    class Config(Settings):
        """How many classes there are, and how wide their rows."""

        classes: int = Field(1000, ge=1, description="labels go from 0 to classes - 1")
        width: int = Field(1024, ge=1, description="the backbone's modulation width, min(its width, 1024)")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.memory_width, self.summary_width = 0, config.width
        self.table = nn.Embedding(config.classes + 1, config.width)
        nn.init.normal_(self.table.weight, std=0.02)

    def encode(self, values: Sequence[int]) -> Condition:
        """Labels -> summary (B, width).

        Raises:
            ConfigError: a label is no whole number from 0 to classes - 1.
        """
        wrong = [value for value in values if not (isinstance(value, int) and 0 <= value < self.config.classes)]
        if wrong:
            raise ConfigError(f"a class label goes from 0 to {self.config.classes - 1}; got {wrong[0]!r}")
        return self._rows(list(values))

    def nothing(self, batch: int) -> Condition:
        """The row after the last class."""
        return self._rows([self.config.classes] * batch)

    def _rows(self, labels: list[int]) -> Condition:
        numbers = torch.tensor(labels, device=self.table.weight.device)
        return Condition(summary=self.table(numbers))
