"""Generator of BigVGAN: transposed convolutions, and residual blocks with anti-aliased periodic activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError

FILTER_TAPS, RESAMPLE_RATIO = 12, 2
"""Filter of the activations in every published generator."""
EPS = 1e-9


def kaiser_sinc_filter(cutoff: float, half_width: float, taps: int) -> Tensor:
    """Compute a low-pass filter (taps,) with sum 1: a sinc with a Kaiser window.

    Args:
        cutoff: cutoff frequency in cycles per sample, at most 0.5.
        half_width: half width of the transition band, in cycles per sample.
        taps: number of taps, even.
    """
    # Kaiser's formulas: attenuation of a number of taps, and beta of the window for it
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        excess = max(attenuation - 21, 0.0)
        beta = 0.5842 * excess**0.4 + 0.07886 * excess
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
    time = torch.arange(taps, dtype=torch.float64, device="cpu") - taps / 2 + 0.5
    taps_window = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps_window / taps_window.sum()).float()


def half_band_filter() -> Tensor:
    """Compute the filter (12,) of up- and downsampling by 2."""
    return kaiser_sinc_filter(0.5 / RESAMPLE_RATIO, 0.6 / RESAMPLE_RATIO, FILTER_TAPS)


class Snake(nn.Module):
    """Activation x + sin^2(alpha x) / beta with parameters per channel.

    Args:
        channels: C.
        learn_beta: `snakebeta`: beta is a parameter; `snake`: beta = alpha.
        logscale: parameters are stored as logarithms.
    """

    def __init__(self, channels: int, learn_beta: bool, logscale: bool) -> None:
        super().__init__()
        self.logscale = logscale
        start = torch.zeros if logscale else torch.ones
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if learn_beta else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        alpha = self._per_channel(self.alpha)
        beta = alpha if self.beta is None else self._per_channel(self.beta)
        return x + (x * alpha).sin().square() / (beta + EPS)

    def _per_channel(self, stored: Tensor) -> Tensor:
        return (stored.exp() if self.logscale else stored)[None, :, None]


class Activation1d(nn.Module):
    """Activation at twice the sample rate, which filters its overtones instead of aliasing them."""

    filter: Tensor

    def __init__(self, act: Snake) -> None:
        super().__init__()
        self.act = act
        # a constant: on the CPU even if the model is built on the meta device, and not in the state dict
        self.register_buffer("filter", half_band_filter().view(1, 1, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return self._downsample(self.act(self._upsample(x)))

    def _upsample(self, x: Tensor) -> Tensor:
        channels, padding = x.shape[1], FILTER_TAPS // RESAMPLE_RATIO - 1
        padded = F.pad(x, (padding, padding), mode="replicate")
        upsampled = F.conv_transpose1d(padded, self._expand_filter(channels, x), stride=RESAMPLE_RATIO, groups=channels)
        trim = padding * RESAMPLE_RATIO + (FILTER_TAPS - RESAMPLE_RATIO) // 2
        return RESAMPLE_RATIO * upsampled[..., trim:-trim]

    def _downsample(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (FILTER_TAPS // 2 - 1, FILTER_TAPS // 2), mode="replicate")
        return F.conv1d(padded, self._expand_filter(channels, x), stride=RESAMPLE_RATIO, groups=channels)

    def _expand_filter(self, channels: int, like: Tensor) -> Tensor:
        return self.filter.to(like).expand(channels, -1, -1)


ActivationFactory = Callable[[int], Activation1d]
"""Function from a number of channels to their activation."""


class GeneratorConfig(Settings):
    """Sizes of a generator; the defaults are those of the released audio models (bigvgan_args.yaml)."""

    n_mels: int = Field(80, ge=1, description="number of mel bands")
    upsample_initial_channel: int = Field(
        1536, ge=2, description="channels of the first layer; each upsampling layer halves them"
    )
    upsample_rates: tuple[int, ...] = Field(
        (4, 4, 2, 2, 2, 2), min_length=1, description="factors of the upsampling layers"
    )
    upsample_kernel_sizes: tuple[int, ...] = Field(
        (8, 8, 4, 4, 4, 4), description="kernel sizes of the upsampling layers"
    )
    resblock: Literal["1", "2"] = Field("1", description="residual block: AMPBlock1 or AMPBlock2")
    resblock_kernel_sizes: tuple[int, ...] = Field(
        (3, 7, 11), min_length=1, description="kernel sizes of the parallel blocks"
    )
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = Field(
        ((1, 3, 5),) * 3, description="dilations of the parallel blocks"
    )
    activation: Literal["snake", "snakebeta"] = Field(
        "snakebeta", description="snakebeta has two parameters per channel, snake one"
    )
    snake_logscale: bool = Field(True, description="store parameters of activations as logarithms")
    use_tanh_at_final: bool = Field(True, description="end with tanh; false: clamp, as in later releases")
    use_bias_at_final: bool = Field(True, description="bias of the last layer; false in later releases")


class Generator(nn.Module):
    """Log-mel spectrogram (B, n_mels, T) -> waveform (B, 1, T * hop_length) in [-1, 1].

    Architecture and tensor names are those of NVIDIA/BigVGAN (arXiv 2206.04658) and
    lumina_music/models/vocoder/bigvgan/models.py, except for weight norm, which `remove_weight_norm` removes.

    Raises:
        ConfigError: lists of sizes differ in length, or the channels cannot be halved often enough.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        _check_config(config)
        self.hop_length, self.use_tanh_at_final = math.prod(config.upsample_rates), config.use_tanh_at_final
        level_channels = [config.upsample_initial_channel >> step for step in range(len(config.upsample_rates) + 1)]
        activation: ActivationFactory = lambda channels: Activation1d(  # noqa: E731
            Snake(channels, config.activation == "snakebeta", config.snake_logscale)
        )
        self.conv_pre = nn.Conv1d(config.n_mels, level_channels[0], 7, padding=3)
        steps = zip(
            level_channels[:-1], level_channels[1:], config.upsample_rates, config.upsample_kernel_sizes, strict=True
        )
        self.ups = nn.ModuleList(
            nn.ModuleList(
                [nn.ConvTranspose1d(in_channels, out_channels, kernel_size, rate, padding=(kernel_size - rate) // 2)]
            )
            for in_channels, out_channels, rate, kernel_size in steps
        )
        block = AMPBlock1 if config.resblock == "1" else AMPBlock2
        self.resblocks = nn.ModuleList(
            block(num_channels, kernel_size, dilations, activation)
            for num_channels in level_channels[1:]
            for kernel_size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.activation_post = activation(level_channels[-1])
        self.conv_post = nn.Conv1d(level_channels[-1], 1, 7, padding=3, bias=config.use_bias_at_final)

    def forward(self, mel: Tensor) -> Tensor:
        """Map (B, n_mels, T) to (B, 1, T * hop_length)."""
        x: Tensor = self.conv_pre(mel)
        blocks_per_stage = len(self.resblocks) // len(self.ups)
        for step, up in enumerate(self.ups):
            x = up[0](x)  # type: ignore[index]
            blocks = self.resblocks[step * blocks_per_stage : (step + 1) * blocks_per_stage]
            x = sum(block(x) for block in blocks) / blocks_per_stage
        x = self.conv_post(self.activation_post(x))
        return x.tanh() if self.use_tanh_at_final else x.clamp(-1, 1)


class AMPBlock1(nn.Module):
    """Residual steps of a dilated and a plain convolution, an activation before each (AMPBlock1)."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], activation: ActivationFactory
    ) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_dilated_conv(channels, kernel_size, 1) for _ in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        acts = iter(self.activations)  # alternating: one before each of both convolutions
        for first, second in zip(self.convs1, self.convs2, strict=True):
            hidden = first(next(acts)(x))
            x = x + second(next(acts)(hidden))
        return x


class AMPBlock2(nn.Module):
    """Residual steps of a dilated convolution, an activation before each (AMPBlock2)."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], activation: ActivationFactory
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = x + conv(act(x))
        return x


def _dilated_conv(channels: int, kernel_size: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)


def _check_config(config: GeneratorConfig) -> None:
    for first, second in (
        ("upsample_rates", "upsample_kernel_sizes"),
        ("resblock_kernel_sizes", "resblock_dilation_sizes"),
    ):
        lengths = [len(values) for values in config.model_dump(include={first, second}).values()]
        if lengths[0] != lengths[1]:
            raise ConfigError(
                f"audio.bigvgan: got {first} and {second} of different lengths, expected one value for each"
            )
    steps = len(config.upsample_rates)
    if config.upsample_initial_channel % 2**steps:
        raise ConfigError(
            f"audio.bigvgan.upsample_initial_channel: got {config.upsample_initial_channel}, expected a multiple of "
            f"{2**steps}, because {steps} layers halve it"
        )
