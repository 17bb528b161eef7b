"""Short-time spectra -> sound: each window's wave laid over its neighbours', the inverse of what `Mel` takes apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def overlaid(spectrum: Tensor, window: Tensor, hop: int) -> Tensor:
    """(B, T, fft / 2 + 1) complex -> (B, 1, T * hop): windows laid over one another, divided by what they add up to.

    Args:
        window: (fft,); a frame a hop after the one before, (fft - hop) / 2 cut off at both ends.
    """
    fft, count = len(window), spectrum.shape[1]
    with torch.autocast(spectrum.device.type, enabled=False):
        frames = torch.fft.irfft(spectrum, fft) * window
        weight = window.square().expand(1, count, fft)
        edge = (fft - hop) // 2
        laid, weighed = (_laid(part, hop)[:, edge : -edge or None] for part in (frames, weight))
        return (laid / weighed.clamp_min(1e-3))[:, None]


def _laid(frames: Tensor, hop: int) -> Tensor:
    """(B, T, fft) -> (B, (T - 1) * hop + fft), each frame a hop after the one before."""
    count, fft = frames.shape[1:]
    size = (1, (count - 1) * hop + fft)
    return F.fold(frames.transpose(1, 2), size, (1, fft), stride=(1, hop))[:, 0, 0]
