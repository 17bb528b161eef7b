"""Linear layers that take the quicker library of matrix products on a CPU; the same weights and numbers as torch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """torch's linear layer; only who multiplies is chosen."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., outputs)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., width) times weight (outputs, width) transposed, and the bias.

    Asked without gradients in float32 on a CPU, oneDNN multiplies: torch takes MKL there, which leaves a fifth of an
    AMD processor's speed unused. Its other formats go through oneDNN as they are.
    """
    if not quicker(x, weight):
        return F.linear(x, weight, bias)
    answer: Tensor = _onednn()(x, weight, bias, "none", [], "")
    return answer


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(x gate^T) * (x up^T), of two matrices (hidden, width): the inner half of SwiGLU, where `quicker` says so."""
    opened = _onednn()(x, gate, None, "swish", [], "")
    answer: Tensor = _onednn().binary(x, opened, up, None, "mul")
    return answer


def quicker(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN, called by itself, is the quicker way to multiply these."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and type(weight) in (Tensor, nn.Parameter)  # not wrapped, as quantised ones are
        and type(x) is Tensor
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _onednn() -> Any:
    # what torch.compile itself makes of a linear layer when it freezes a model
    return torch.ops.mkldnn._linear_pointwise
