"""Synthetic test audio."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tone(hertz: float, samples: int = 8192, rate: int = 16000, partials: int = 6) -> Tensor:
    """Make a decaying harmonic tone (1, samples) within [-1, 1]."""
    time = torch.arange(samples) / rate
    waves = [torch.sin(2 * math.pi * hertz * k * time) / k for k in range(1, partials + 1) if hertz * k < rate / 2]
    return (0.4 * torch.stack(waves).sum(0) * torch.exp(-2 * time))[None].clamp(-1, 1)


def chord(samples: int = 8192) -> Tensor:
    """Make a batch (2, 1, samples) of a low and a high tone."""
    return torch.stack([tone(196.0, samples), tone(523.25, samples)])
