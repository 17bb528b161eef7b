"""A class label -> Condition: one row of a table a class, and one more for having said nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition


class ClassLabelConditioner(nn.Module, Conditioner):
    """Class numbers 0..classes-1 to a summary (B, width); the last row is silence, as in the published models."""

    class Config(Settings):
        """How many classes there are, and how wide their rows."""

        num_classes: int = Field(1000, ge=1, description="labels go from 0 to classes - 1")
        hidden_size: int = Field(1024, ge=1, description="the backbone's modulation width, min(its width, 1024)")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim, self.pooled_dim = 0, config.hidden_size
        self.table = nn.Embedding(config.num_classes + 1, config.hidden_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def encode(self, values: Sequence[int]) -> Condition:
        """Labels -> summary (B, width).

        Raises:
            ConfigError: a label is no whole number from 0 to classes - 1.
        """
        invalid = [value for value in values if not (isinstance(value, int) and 0 <= value < self.config.num_classes)]
        if invalid:
            raise ConfigError(f"a class label goes from 0 to {self.config.num_classes - 1}; got {invalid[0]!r}")
        return self._embed(list(values))

    def null_condition(self, batch: int) -> Condition:
        """The row after the last class."""
        return self._embed([self.config.num_classes] * batch)

    def no_muon(self) -> set[str]:
        """Return the table of classes."""
        return {"table.weight"}

    def _embed(self, labels: list[int]) -> Condition:
        indices = torch.tensor(labels, device=self.table.weight.device)
        return Condition(pooled=self.table(indices))
