"""Class label conditioner: class index -> pooled vector from a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

MAX_LISTED = 20
"""Class names that a message lists."""


class ClassLabelConditioner(nn.Module, Conditioner):
    """Encode class indices to a pooled vector (B, hidden_size); the last row is the null condition, as published."""

    class Config(Settings):
        """Number of classes and width of the table."""

        num_classes: int = Field(1000, ge=1, description="number of classes")
        hidden_size: int = Field(1024, ge=1, description="width of the pooled vector")
        class_names: tuple[str, ...] = Field(
            (), description="names of the classes in their order; empty: those of the data set in training"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        if len(config.class_names) > config.num_classes:
            raise ConfigError(
                f"core.class_label: num_classes: got {config.num_classes}, expected at least "
                f"{len(config.class_names)}, the number of class names ({', '.join(config.class_names[:5])} ...)."
            )
        self.config = config
        self.cross_attention_dim, self.pooled_dim = 0, config.hidden_size
        self.table = nn.Embedding(config.num_classes + 1, config.hidden_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def encode(self, values: Sequence[int | str]) -> Condition:
        """Encode class indices or names to a pooled vector (B, hidden_size).

        Raises:
            ConfigError: a value is neither an integer from 0 to num_classes - 1 nor a class name.
        """
        return self._embed([self.class_index(value) for value in values])

    def class_index(self, value: int | str) -> int:
        """Return the index of a class by its index or its name, whatever its capitals.

        Raises:
            ConfigError: there is no such class; the nearest name is offered.
        """
        names = self.config.class_names
        if isinstance(value, str):
            plain = [_plain_name(name) for name in names]
            if _plain_name(value) in plain:
                return plain.index(_plain_name(value))
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < self.config.num_classes:
            return value
        expected = f"an integer from 0 to {self.config.num_classes - 1}"
        if names:
            expected += f" or a class name{suggest_or_list(str(value), names[:MAX_LISTED])}"
        raise ConfigError(f"class label: got {value!r}, expected {expected}.")

    def null_condition(self, batch: int) -> Condition:
        """Return the row after the last class."""
        return self._embed([self.config.num_classes] * batch)

    def no_muon(self) -> set[str]:
        """Return the table of classes."""
        return {"table.weight"}

    def _embed(self, labels: list[int]) -> Condition:
        indices = torch.tensor(labels, device=self.table.weight.device)
        return Condition(pooled=self.table(indices))


def _plain_name(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())
