"""BigVGAN's generator: transposed convolutions, between them blocks of anti-aliased periodic activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from lumina_audio.vocoders.antialias import Smoothed, Snake
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError

Activation = Callable[[int], Smoothed]
"""Channels -> one activation for them."""


class Shape(Settings):
    """Sizes of a generator; the defaults are those of the published sound models' one (bigvgan_args.yaml)."""

    bands: int = Field(80, ge=1, description="of the mel spectrogram")
    width: int = Field(1536, ge=2, description="channels of the first layer, halved by each that lengthens")
    rates: tuple[int, ...] = Field((4, 4, 2, 2, 2, 2), min_length=1, description="by how much each layer lengthens")
    kernels: tuple[int, ...] = Field((8, 8, 4, 4, 4, 4), description="kernels of those layers")
    block: Literal["1", "2"] = Field("1", description="1: two convolutions a step, three steps; 2: one a step")
    block_kernels: tuple[int, ...] = Field((3, 7, 11), min_length=1, description="one block each, averaged")
    dilations: tuple[tuple[int, ...], ...] = Field(((1, 3, 5),) * 3, description="steps of each of these blocks")
    activation: Literal["snake", "snakebeta"] = Field("snakebeta", description="snake: one number a channel")
    logscale: bool = Field(True, description="the activations' numbers are stored as logarithms")
    tanh: bool = Field(True, description="False: cut at -1 and 1 instead, as in later releases")
    final_bias: bool = Field(True, description="a bias in the last layer, which later releases leave out")


class Generator(nn.Module):
    """Log-mel (B, bands, T) -> waveform (B, 1, T * hop) in [-1, 1].

    As published (NVIDIA/BigVGAN, arXiv 2206.04658; lumina_music/models/vocoder/bigvgan/models.py), by the same names
    but for the weight norm, which `bigvgan_files.plain` takes off.

    Raises:
        ConfigError: lists of sizes have not the same length, or the width cannot be halved so often.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        _check(shape)
        self.hop, self.tanh = math.prod(shape.rates), shape.tanh
        widths = [shape.width >> step for step in range(len(shape.rates) + 1)]
        activation: Activation = lambda channels: Smoothed(  # noqa: E731
            Snake(channels, shape.activation == "snakebeta", shape.logscale)
        )
        self.conv_pre = nn.Conv1d(shape.bands, widths[0], 7, padding=3)
        steps = zip(widths[:-1], widths[1:], shape.rates, shape.kernels, strict=True)
        self.ups = nn.ModuleList(
            nn.ModuleList([nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)])
            for wide, narrow, rate, kernel in steps
        )
        block = Twofold if shape.block == "1" else Plain
        self.resblocks = nn.ModuleList(
            block(width, kernel, dilations, activation)
            for width in widths[1:]
            for kernel, dilations in zip(shape.block_kernels, shape.dilations, strict=True)
        )
        self.activation_post = activation(widths[-1])
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=shape.final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, bands, T) -> (B, 1, T * hop)."""
        x: Tensor = self.conv_pre(mel)
        each = len(self.resblocks) // len(self.ups)
        for step, up in enumerate(self.ups):
            x = up[0](x)  # type: ignore[index]
            blocks = self.resblocks[step * each : (step + 1) * each]
            x = sum(block(x) for block in blocks) / each
        x = self.conv_post(self.activation_post(x))
        return x.tanh() if self.tanh else x.clamp(-1, 1)


class Twofold(nn.Module):
    """x + convolution(convolution with holes(x)), step by step, an activation before each (AMPBlock1)."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(width, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(width, kernel, 1) for _ in dilations)
        self.activations = nn.ModuleList(activation(width) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        acts = iter(self.activations)  # they take turns: one before each of the two convolutions
        for first, second in zip(self.convs1, self.convs2, strict=True):
            holed = first(next(acts)(x))
            x = x + second(next(acts)(holed))
        return x


class Plain(nn.Module):
    """x + convolution with holes(x), step by step, an activation before each (AMPBlock2)."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width, kernel, dilation) for dilation in dilations)
        self.activations = nn.ModuleList(activation(width) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = x + conv(act(x))
        return x


def _conv(width: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(width, width, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)


def _check(shape: Shape) -> None:
    if len(shape.rates) != len(shape.kernels) or len(shape.block_kernels) != len(shape.dilations):
        raise ConfigError(
            f"audio.bigvgan: {len(shape.rates)} rates with {len(shape.kernels)} kernels, and "
            f"{len(shape.block_kernels)} block_kernels with {len(shape.dilations)} dilations; give one for each"
        )
    if shape.width % 2 ** len(shape.rates):
        raise ConfigError(
            f"audio.bigvgan: width {shape.width} is halved {len(shape.rates)} times; "
            f"make it a multiple of {2 ** len(shape.rates)}"
        )
