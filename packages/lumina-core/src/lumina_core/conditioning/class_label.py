"""Class label conditioner: class index -> pooled vector from a table."""

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
    """Encode class indices to a pooled vector (B, hidden_size); the last row is the null condition, as published."""

    class Config(Settings):
        """Number of classes and width of the table."""

        num_classes: int = Field(1000, ge=1, description="number of classes")
        hidden_size: int = Field(1024, ge=1, description="width of the pooled vector")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim, self.pooled_dim = 0, config.hidden_size
        self.table = nn.Embedding(config.num_classes + 1, config.hidden_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def encode(self, values: Sequence[int]) -> Condition:
        """Encode class indices to a pooled vector (B, hidden_size).

        Raises:
            ConfigError: a value is not an integer from 0 to num_classes - 1.
        """
        invalid = [value for value in values if not (isinstance(value, int) and 0 <= value < self.config.num_classes)]
        if invalid:
            raise ConfigError(
                f"class label: got {invalid[0]!r}, expected an integer from 0 to {self.config.num_classes - 1}."
            )
        return self._embed(list(values))

    def null_condition(self, batch: int) -> Condition:
        """Return the row after the last class."""
        return self._embed([self.config.num_classes] * batch)

    def no_muon(self) -> set[str]:
        """Return the table of classes."""
        return {"table.weight"}

    def _embed(self, labels: list[int]) -> Condition:
        indices = torch.tensor(labels, device=self.table.weight.device)
        return Condition(pooled=self.table(indices))
