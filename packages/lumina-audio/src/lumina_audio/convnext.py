"""ConvNeXt blocks along time: what the light autoencoder and the light vocoder are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNeXt(nn.Module):
    """A convolution along time for each channel, then two layers for each moment (after arXiv 2201.03545)."""

    def __init__(self, width: int, hidden: int, gain: float) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gain = nn.Parameter(torch.full((width,), gain))
        for layer in (self.along, self.rise, self.fall):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> the same."""
        seen = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2))
        moved: Tensor = x + self.gain * self.fall(F.gelu(self.rise(seen)))
        return moved
