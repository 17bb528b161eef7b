"""Layers shared by the backbones: linear, RMS norm, SwiGLU, embeddings of time and of the pooled condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.models import cpu_kernels

FREQ_DIM = 256
MAX_PERIOD = 10000.0


class Linear(nn.Linear):
    """torch.nn.Linear with the faster matrix library of the CPU (see `cpu_kernels`); same weights, same result."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return cpu_kernels.linear(x, self.weight, self.bias)


def split_linear(layer: nn.Module, x: Tensor, dims: Sequence[int]) -> tuple[Tensor, ...]:
    """Apply a linear layer without bias to x (..., in) and split its outputs into parts of `dims` channels."""
    if cpu_kernels.is_active(x) and isinstance(layer, Linear) and cpu_kernels.is_plain(layer, Linear):
        return cpu_kernels.split_linear(x, layer.weight, dims)
    parts: tuple[Tensor, ...] = layer(x).split(list(dims), dim=-1)
    return parts


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32 and multiplied by the weight in the input's dtype, as published.

    Args:
        dim: C, channels.
        eps: added to the mean square.
        elementwise_affine: False: no weight.
    """

    def __init__(self, dim: int, eps: float, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.eps, self.dim = eps, dim
        self.weight = nn.Parameter(torch.ones(dim)) if elementwise_affine else None

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Normalize x (..., C) and multiply by `scale`, a number or a tensor that broadcasts to x."""
        if cpu_kernels.is_active(x):
            return cpu_kernels.rms_norm(x, self.weight, self.eps, scale)
        if x.dtype == torch.float32:
            # sharded training may hold the weight in bfloat16
            weight = None if self.weight is None else self.weight.to(x.dtype)
            return F.rms_norm(x, (self.dim,), weight, self.eps) * scale
        normed = F.rms_norm(x.float(), (self.dim,), None, self.eps).to(x.dtype)
        return (normed if self.weight is None else normed * self.weight.to(x.dtype)) * scale


def add_normed(x: Tensor, branch: Tensor, norm: RMSNorm, scale: Tensor | float = 1.0) -> Tensor:
    """Compute x + norm(branch, scale); x and branch (..., C)."""
    if cpu_kernels.is_active(x) and cpu_kernels.is_plain(norm, RMSNorm) and norm.weight is not None:
        return cpu_kernels.add_rms_norm(x, branch, norm.weight, norm.eps, scale)
    result: Tensor = x + norm(branch, scale)
    return result


class FeedForward(nn.Module):
    """SwiGLU: out(silu(gate x) * (up x)); `up` holds the matrices of gate and up."""

    def __init__(self, hidden_size: int, ffn_dim: int) -> None:
        super().__init__()
        self.up = Linear(hidden_size, 2 * ffn_dim, bias=False)
        self.out = Linear(ffn_dim, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        if cpu_kernels.is_active(x) and cpu_kernels.is_plain(self.up, Linear):
            inner = cpu_kernels.swiglu(x, self.up.weight)
        else:
            gate_out, up_out = self.up(x).chunk(2, dim=-1)
            inner = F.silu(gate_out) * up_out
        output: Tensor = self.out(inner)
        return output


def ffn_hidden_dim(hidden_size: int, multiple_of: int, ffn_dim_multiplier: float | None) -> int:
    """Compute the published feed-forward width: 8/3 of the width (times a multiplier), rounded up to a multiple."""
    hidden = int(2 * (4 * hidden_size) / 3)
    if ffn_dim_multiplier is not None:
        hidden = int(ffn_dim_multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of time (B,) in 0..1, then two linear layers -> (B, hidden_size).

    As published (TimestepEmbedder): time is not multiplied by 1000.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner, self.outer = Linear(FREQ_DIM, hidden_size), Linear(hidden_size, hidden_size)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Embed time (B,) as (B, hidden_size)."""
        freq_emb = timestep_embedding(t).to(self.inner.weight.dtype)
        embedded: Tensor = self.outer(F.silu(self.inner(freq_emb)))
        return embedded


def timestep_embedding(t: Tensor) -> Tensor:
    """Compute 128 cosines, then 128 sines of time (B,), with periods up to 2 pi * 10000 -> (B, 256) float32."""
    half = FREQ_DIM // 2
    freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(MAX_PERIOD) / half))
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PooledEmbedding(nn.Module):
    """LayerNorm and a zero-initialized linear layer over the pooled condition (published: cap_embedder)."""

    def __init__(self, pooled_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(pooled_dim), Linear(pooled_dim, hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, pooled_dim) to (B, hidden_size)."""
        embedded: Tensor = self.linear(self.norm(pooled))
        return embedded
