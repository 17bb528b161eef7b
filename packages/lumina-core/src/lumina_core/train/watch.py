"""Finds the first layer whose output is not a number, once a step has gone wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import LuminaError


def blame(model: nn.Module, again: Callable[[], Any], step: int) -> LuminaError:
    """An error that names the first layer whose output holds NaN or Inf.

    Args:
        again: runs the forward pass of the step once more.
    """
    found: list[str] = []
    handles = [module.register_forward_hook(_watcher(name, found)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            again()
    finally:
        for handle in handles:
            handle.remove()
    place = found[0] if found else _bad_weights(model) or "the loss or its gradient (every layer's output is finite)"
    return LuminaError(
        f"step {step + 1}: NaN or Inf, first made by {place}. Nothing was changed by this step; try a lower "
        "training.rate, a smaller training.clip, or training.precision=float32"
    )


def _watcher(name: str, found: list[str]) -> Callable[..., None]:
    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
            found.append(f"{name} ({type(module).__name__})")

    return watch


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, dict) else getattr(output, "__dict__", {}).values()
    several = output if isinstance(output, (list, tuple)) else values
    return [tensor for value in several for tensor in _tensors(value)]


def _bad_weights(model: nn.Module) -> str | None:
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    return f"the weights {bad[0]}" if bad else None
