"""Time and summary as one vector that modulates every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lumina_core.nn.linear import Linear

FEATURES = 256
PERIOD = 10000.0


class TimeEmbedding(nn.Module):
    """Time in 0..1 -> (B, width): 256 waves (cosines, then sines; longest period 10000), then two linear layers.

    As published (TimestepEmbedder): time is not multiplied by 1000.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = Linear(FEATURES, width), Linear(width, width)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, time: Tensor) -> Tensor:
        """time (B,) -> (B, width)."""
        waves = time_waves(time).to(self.inner.weight.dtype)
        embedded: Tensor = self.outer(torch.nn.functional.silu(self.inner(waves)))
        return embedded


def time_waves(time: Tensor) -> Tensor:
    """time (B,) -> (B, 256) float32."""
    half = FEATURES // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=time.device) * (-math.log(PERIOD) / half))
    angles = time.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class SummaryEmbedding(nn.Module):
    """A summary (B, S) -> (B, width): LayerNorm and a linear layer that starts at zero (published: cap_embedder)."""

    def __init__(self, summary_width: int, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(summary_width), Linear(summary_width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, summary: Tensor) -> Tensor:
        """(B, S) -> (B, width)."""
        embedded: Tensor = self.linear(self.norm(summary))
        return embedded
