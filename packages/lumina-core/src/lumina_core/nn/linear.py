"""Linear layers that take the quicker library of matrix products on a CPU; the same weights and numbers as torch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMATS = (torch.float32, torch.bfloat16)


class Linear(nn.Linear):
    """torch's linear layer; only who multiplies is chosen."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., outputs)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., width) times weight (outputs, width) transposed, and the bias.

    Asked without gradients in float32 on a CPU, oneDNN multiplies: torch takes MKL there, which leaves a tenth of an
    AMD processor's speed unused. bfloat16 goes through oneDNN either way.
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


def overwriting(x: Tensor) -> bool:
    """Whether what is made of x may be written over, the quicker way on a CPU: nobody asks for gradients, and no
    compiler, which knows better ways, looks on."""
    return x.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def bare(layer: nn.Module) -> bool:
    """Whether a layer's weights may be used without calling it: it is ours, and nobody watches it by a hook."""
    return type(layer) is Linear and not layer._forward_hooks


def quicker(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN, called by itself, is the quicker way to multiply these."""
    return (
        x.dtype == weight.dtype
        and x.dtype in FORMATS
        and overwriting(x)
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
