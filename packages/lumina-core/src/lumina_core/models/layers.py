"""Linear layers that take the quicker library of matrix products on a CPU; the same weights and numbers as torch's."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN_DTYPES = (torch.float32, torch.bfloat16)


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
    if not prefers_onednn(x, weight):
        return F.linear(x, weight, bias)
    output: Tensor = _onednn_linear()(x, weight, bias, "none", [], "")
    return output


def onednn_swiglu(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(x gate^T) * (x up^T), of two matrices (hidden, width): the inner half of SwiGLU, where `quicker` says so."""
    gate_out = _onednn_linear()(x, gate, None, "swish", [], "")
    output: Tensor = _onednn_linear().binary(x, gate_out, up, None, "mul")
    return output


def can_run_inplace(x: Tensor) -> bool:
    """Whether what is made of x may be written over, the quicker way on a CPU: nobody asks for gradients, and no
    compiler, which knows better ways, looks on."""
    return x.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def has_no_hooks(layer: nn.Module) -> bool:
    """Whether a layer's weights may be used without calling it: it is ours, and nobody watches it by a hook."""
    return type(layer) is Linear and not layer._forward_hooks


def prefers_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN, called by itself, is the quicker way to multiply these."""
    return (
        x.dtype == weight.dtype
        and x.dtype in ONEDNN_DTYPES
        and can_run_inplace(x)
        and not torch.is_autocast_enabled("cpu")
        and type(weight) in (Tensor, nn.Parameter)  # not wrapped, as quantised ones are
        and type(x) is Tensor
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _onednn_linear() -> Any:
    # what torch.compile itself makes of a linear layer when it freezes a model
    return torch.ops.mkldnn._linear_pointwise


FREQ_DIM = 256
MAX_PERIOD = 10000.0


class TimestepEmbedder(nn.Module):
    """Time in 0..1 -> (B, width): 256 waves (cosines, then sines; longest period 10000), then two linear layers.

    As published (TimestepEmbedder): time is not multiplied by 1000.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner, self.outer = Linear(FREQ_DIM, hidden_size), Linear(hidden_size, hidden_size)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """time (B,) -> (B, width)."""
        freq_emb = timestep_embedding(t).to(self.inner.weight.dtype)
        embedded: Tensor = self.outer(torch.nn.functional.silu(self.inner(freq_emb)))
        return embedded


def timestep_embedding(t: Tensor) -> Tensor:
    """time (B,) -> (B, 256) float32."""
    half = FREQ_DIM // 2
    freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(MAX_PERIOD) / half))
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PooledEmbedding(nn.Module):
    """A summary (B, S) -> (B, width): LayerNorm and a linear layer that starts at zero (published: cap_embedder)."""

    def __init__(self, pooled_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(pooled_dim), Linear(pooled_dim, hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, S) -> (B, width)."""
        embedded: Tensor = self.linear(self.norm(pooled))
        return embedded
