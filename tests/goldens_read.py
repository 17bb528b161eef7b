"""A file of reference tensors: its settings and its tensors by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.types import Condition


class Unsupported(Exception):
    """The case belongs to a part that the project does not have yet."""


@dataclass
class Target:
    """Device and dtype of the networks; tensors outside of networks stay float32."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def is_reduced(self) -> bool:
        """Whether the dtype is narrower than float32, so that errors are relative to the size of the reference."""
        return self.dtype != torch.float32

    def place(self, network: nn.Module) -> None:
        """Move a network in evaluation mode to the device, and cast its weights."""
        network.to(self.device, self.dtype).eval()


TARGET = Target()
"""Set by the command line."""


def reduced(condition: Condition) -> Condition:
    """Cast the features of a condition to the target's dtype."""
    context, pooled = (None if x is None else x.to(TARGET.dtype) for x in (condition.context, condition.pooled))
    return replace(condition, context=context, pooled=pooled)


def weighted(weight: float, error: float) -> float:
    """Multiply an absolute error by the weight of its tolerance; relative errors have one tolerance."""
    return error if TARGET.is_reduced else weight * error


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
    """The largest absolute difference; infinite where shapes differ, NaN where one is NaN.

    With a reduced dtype: the largest ratio of the norm of a difference to the norm of the reference.
    """
    if any(got.shape != expected.shape for got, expected in pairs):
        return float("inf")
    on_cpu = [(got.detach().cpu(), expected.cpu()) for got, expected in pairs if got.numel()]
    if TARGET.is_reduced:
        doubles = [(got.double(), expected.double()) for got, expected in on_cpu]
        return largest([float((got - expected).norm() / expected.norm().clamp_min(1e-6)) for got, expected in doubles])
    return largest([(got - expected).abs().max().item() for got, expected in on_cpu])


def largest(errors: list[float]) -> float:
    """The largest of the errors; NaN if one is, which Python's `max` would pass over."""
    return float(torch.tensor(errors or [0.0], dtype=torch.float64).max())
