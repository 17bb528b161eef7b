"""A file of reference tensors: its settings and its tensors by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Unsupported(Exception):
    """The case belongs to a part that the project does not have yet."""


@dataclass(frozen=True)
class Golden:
    """One file."""

    case: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    place: Path = Path()

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name begins with `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def one_or_list(self, name: str) -> Tensor | list[Tensor]:
        """A tensor, or the list that was stored as name.0, name.1 ..."""
        if name in self.tensors:
            return self.tensors[name]
        listed = self.group(name)
        return [listed[str(place)] for place in range(len(listed))]


def worst(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest absolute difference; infinite where shapes differ, NaN where one is NaN."""
    if any(got.shape != expected.shape for got, expected in pairs):
        return float("inf")
    return largest([(got - expected).abs().max().item() for got, expected in pairs if got.numel()])


def largest(errors: list[float]) -> float:
    """The largest of the errors; NaN if one is, which Python's `max` would pass over."""
    return float(torch.tensor(errors or [0.0], dtype=torch.float64).max())
