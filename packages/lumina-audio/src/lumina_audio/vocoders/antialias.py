"""Periodic activations without aliases: up by two, x + sin^2(a x) / b, down by two (BigVGAN, arXiv 2206.04658)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS, RATIO = 12, 2
"""Of the filters in every published generator."""
TINY = 1e-9


def kaiser_sinc(cutoff: float, half_width: float, taps: int) -> Tensor:
    """A low-pass filter (taps,) whose sum is 1: a sinc under a Kaiser window.

    Args:
        cutoff: in cycles a sample, at most 0.5.
        half_width: of the transition band, in the same unit.
        taps: an even number.
    """
    # Kaiser's formulas: the attenuation that so many taps reach, and the window's shape for it
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        over = max(attenuation - 21, 0.0)
        beta = 0.5842 * over**0.4 + 0.07886 * over
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
    time = torch.arange(taps, dtype=torch.float64, device="cpu") - taps / 2 + 0.5
    shape = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (shape / shape.sum()).float()


def half_band() -> Tensor:
    """The filter (12,) of both directions: it passes half of the doubled rate's band."""
    return kaiser_sinc(0.5 / RATIO, 0.6 / RATIO, TAPS)


class Snake(nn.Module):
    """x + sin^2(a x) / b by channel; `snake` has b = a, `snakebeta` a magnitude of its own.

    Args:
        channels: C.
        beta: whether b is learnt beside a.
        logscale: what is stored are logarithms of a and b.
    """

    def __init__(self, channels: int, beta: bool, logscale: bool) -> None:
        super().__init__()
        self.logscale = logscale
        start = torch.zeros if logscale else torch.ones
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if beta else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        alpha = self._of_channel(self.alpha)
        beta = alpha if self.beta is None else self._of_channel(self.beta)
        return x + (x * alpha).sin().square() / (beta + TINY)

    def _of_channel(self, stored: Tensor) -> Tensor:
        return (stored.exp() if self.logscale else stored)[None, :, None]


class Smoothed(nn.Module):
    """An activation at twice the rate, so that the overtones it makes are filtered away instead of folded back."""

    filter: Tensor

    def __init__(self, act: Snake) -> None:
        super().__init__()
        self.act = act
        # always the same numbers: on the CPU even where a model is built on no device, and in no state dict
        self.register_buffer("filter", half_band().view(1, 1, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return self._down(self.act(self._up(x)))

    def _up(self, x: Tensor) -> Tensor:
        channels, edge = x.shape[1], TAPS // RATIO - 1
        padded = F.pad(x, (edge, edge), mode="replicate")
        spread = F.conv_transpose1d(padded, self._each(channels, x), stride=RATIO, groups=channels)
        cut = edge * RATIO + (TAPS - RATIO) // 2
        return RATIO * spread[..., cut:-cut]

    def _down(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(padded, self._each(channels, x), stride=RATIO, groups=channels)

    def _each(self, channels: int, like: Tensor) -> Tensor:
        return self.filter.to(like).expand(channels, -1, -1)
