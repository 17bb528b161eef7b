"""Rope scaling: rotary frequencies for sizes larger than in training, one component per method.

Symbols: s, the ratio of tokens along an axis to those in training; f, the index of a frequency theta^-f, from 0 to 1
over an axis; d, channels of an axis, which has d / 2 frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import RopeScaling
from lumina_core.types import RopeContext


class RopeScalingConfig(Settings):
    """Options of every method."""

    train_size: tuple[int, ...] | None = Field(
        None,
        description="size of the training data, one for all sides or one per side; None: the task's",
    )
    isotropic: bool = Field(
        False,
        description="one ratio for all axes, the geometric mean of theirs, as published; false: one per axis",
    )
    scale_down: bool = Field(
        False, description="scale smaller sizes too, as diffusers does; false: they keep the trained frequencies"
    )

    @field_validator("train_size", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


def axis_ratios(rope_context: RopeContext, config: RopeScalingConfig) -> tuple[float, ...]:
    """Compute s of each axis; 1 for an axis along which training had one token.

    Raises:
        ConfigError: the training size is unknown.
    """
    lengths = train_lengths(rope_context)
    if config.isotropic:
        scales = [mean_ratio(rope_context)] * len(lengths)
    else:
        scales = [now / then if then > 1 else 1.0 for now, then in zip(rope_context.lengths, lengths, strict=True)]
    return tuple(scales if config.scale_down else (max(1.0, s) for s in scales))


def mean_ratio(rope_context: RopeContext) -> float:
    """Compute the geometric mean of s over the axes along which training had more than one token."""
    pairs = zip(rope_context.lengths, train_lengths(rope_context), strict=True)
    used = [now / then for now, then in pairs if then > 1]
    return math.prod(used) ** (1 / len(used)) if used else 1.0


def train_lengths(rope_context: RopeContext) -> tuple[float, ...]:
    """Return the tokens along each axis in training.

    Raises:
        ConfigError: the training size is unknown.
    """
    if rope_context.train_lengths is None:
        raise ConfigError(
            "rope_scaling train_size: got none from the options or the task, expected the size of the training data. "
            "Set sampling.rope_scaling.train_size in the recipe, or give the method as NAME:train_size=SIDE."
        )
    return rope_context.train_lengths


def freq_index(freqs: Tensor, theta: float, first_index: int = 0) -> Tensor:
    """Compute f of each frequency +-theta^-f of an axis, at least 0.

    Args:
        freqs: of an axis; signs, which learned frequencies have, do not matter.
        theta: base.
        first_index: 0 or 1, the index at which the frequencies of an axis are counted from.
    """
    smallest = torch.finfo(freqs.dtype).tiny
    index = (-freqs.abs().clamp_min(smallest).log() / math.log(theta)).clamp_min(0)
    return index + first_index / max(1, freqs.shape[-1])


def ntk_exponent(freqs: Tensor) -> float:
    """Compute d / (d - 2) for an axis of d channels; 1 for an axis with a single frequency."""
    dim = 2 * freqs.shape[-1]
    return dim / (dim - 2) if dim > 2 else 1.0


def ntk_scale(freqs: Tensor, s: float, theta: float, power: float = 1.0) -> Tensor:
    """Compute the frequencies of a base that is s^power times larger."""
    return freqs * (-power * math.log(s) * freq_index(freqs, theta)).exp()


def clamped_ntk_scale(freqs: Tensor, s: float, theta: float, target_index: float, first_index: int = 0) -> Tensor:
    """Compute NTK frequencies that reach interpolation at index `target_index` and stay there above it."""
    fraction = (
        (freq_index(freqs, theta, first_index) / target_index).clamp(0, 1)
        if target_index > 0
        else freqs.new_ones(freqs.shape)
    )
    return freqs * (-math.log(s) * fraction).exp()


def target_freq_index(length: float, theta: float) -> float:
    """Compute f of the frequency with a wavelength of `length` tokens: log_theta(length / 2 pi)."""
    return math.log(length / (2 * math.pi)) / math.log(theta)


def yarn_scale(freqs: Tensor, s: float, length: float, beta_slow: float, beta_fast: float) -> Tensor:
    """Blend interpolated and unchanged frequencies by the number of wavelengths in the training length."""
    num_waves = length * freqs / (2 * math.pi)
    keep_fraction = ((num_waves - beta_slow) / max(beta_fast - beta_slow, 1e-9)).clamp(0, 1)
    return freqs / s * (1 - keep_fraction) + freqs * keep_fraction


class IndexedScaling(RopeScalingConfig):
    """Options of methods that depend on the index of a frequency."""

    first_index: Literal[0, 1] = Field(
        0,
        description="index of the first frequency of an axis; 0: it is never interpolated; 1: it is, with its axis",
    )


class _ConfiguredScaling(RopeScaling):
    """Base of the methods below."""

    Config: type[RopeScalingConfig] = RopeScalingConfig

    def __init__(self, config: RopeScalingConfig) -> None:
        self.config, self.train_size = config, config.train_size


class NoScaling(_ConfiguredScaling):
    """No scaling: larger sizes have positions that training did not have."""

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(freqs)


class PositionInterpolation(_ConfiguredScaling):
    """Position interpolation, frequencies / s (arXiv 2306.15595; `linear_factor` as published)."""

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(rate / s for rate, s in zip(freqs, axis_ratios(rope_context, self.config), strict=True))


class NTKScaling(_ConfiguredScaling):
    """NTK-aware scaling: a larger base, which interpolates low frequencies and keeps high ones (`ntk_factor`)."""

    class Config(RopeScalingConfig):
        """Exponent of s."""

        exact: bool = Field(
            False,
            description="theta * s^(d / (d - 2)), by which the last frequency is exactly interpolated, as in language "
            "models; false: theta * s, as published",
        )

    config: Config

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(
            ntk_scale(rate, s, rope_context.theta, ntk_exponent(rate) if self.config.exact else 1.0)
            for rate, s in zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        )


class FrequencyAwareScaling(_ConfiguredScaling):
    """Frequency-Aware Scaled RoPE (Lumina-Next): NTK up to the frequency whose wavelength is the training length.

    f_target = log_theta(L / 2 pi), frequency' = max(frequency * s^(-f / f_target), frequency / s): from f_target on it
    is interpolation. For L <= 2 pi there is no such frequency and all are interpolated, a choice of this project.
    """

    Config = IndexedScaling
    config: IndexedScaling

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        axes = zip(freqs, axis_ratios(rope_context, self.config), train_lengths(rope_context), strict=True)
        first_index = self.config.first_index
        return tuple(
            clamped_ntk_scale(rate, s, rope_context.theta, target_freq_index(length, rope_context.theta), first_index)
            for rate, s, length in axes
        )


class TimeAwareScaling(_ConfiguredScaling):
    """Time-Aware Scaled RoPE (Lumina-Next): interpolation at noise that turns into NTK at data.

    d_t = (d - 1) t + 1, frequency' = max(frequency * s^(-e / d_t), frequency / s), with d the channels of a head and
    e = f d. It is computed by the logarithm of s, since s^(d / d_t) overflows near noise. At t = 1 it is NTK as
    published. With `first_index: 0` the first frequency never changes; with 1 it is interpolated at noise as well. The
    paper does not say which; a model trained on few tokens needs 1.
    """

    time_dependent = True

    Config = IndexedScaling
    config: IndexedScaling

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        target_index = ((rope_context.head_dim - 1) * t + 1) / rope_context.head_dim
        axes = zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        return tuple(
            clamped_ntk_scale(rate, s, rope_context.theta, target_index, self.config.first_index) for rate, s in axes
        )


class SwitchScaling(_ConfiguredScaling):
    """The published switch: interpolation before a time, NTK (theta * s) from it on (`scale_watershed`)."""

    time_dependent = True

    class Config(RopeScalingConfig):
        """Time of the switch."""

        watershed: float = Field(
            0.3, ge=0, description="interpolation at times below it; sample.py takes 0.3, diffusers 1.0 (never NTK)"
        )

    config: Config

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        early = t < self.config.watershed
        axes = zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        return tuple(rate / s if early else ntk_scale(rate, s, rope_context.theta) for rate, s in axes)


class YaRN(_ConfiguredScaling):
    """YaRN, NTK by parts (arXiv 2309.00071), with sharper attention.

    Frequencies with more than `beta_fast` wavelengths in the training length stay, those with less than `beta_slow` are
    interpolated, with a linear ramp between. The scale of attention is multiplied by (temperature * ln s + 1)^2.
    """

    class Config(RopeScalingConfig):
        """Ends of the ramp, and the sharpness of attention."""

        beta_slow: float = Field(
            1.0, gt=0, description="wavelengths in the training length below which a frequency is interpolated"
        )
        beta_fast: float = Field(32.0, gt=0, description="wavelengths above which it stays")
        temperature: float = Field(
            0.1, ge=0, description="the scale of attention is multiplied by (temperature * ln s + 1)^2"
        )

    config: Config

    def __init__(self, config: Config) -> None:
        if config.beta_slow >= config.beta_fast:
            raise ConfigError(
                f"core.yarn beta_slow: got {config.beta_slow}, expected less than beta_fast {config.beta_fast}"
            )
        super().__init__(config)

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        axes = zip(freqs, axis_ratios(rope_context, self.config), train_lengths(rope_context), strict=True)
        return tuple(
            yarn_scale(rate, s, length, self.config.beta_slow, self.config.beta_fast) for rate, s, length in axes
        )

    def attn_scale(self, rope_context: RopeContext) -> float:
        """Compute the factor of the scale of attention; s is the geometric mean over the axes."""
        return (self.config.temperature * math.log(max(1.0, mean_ratio(rope_context))) + 1) ** 2


class DyPE(_ConfiguredScaling):
    """Dynamic Position Extrapolation (arXiv 2510.20766): another method, strong at noise and without effect at data.

    kappa = scale * (1 - t)^exponent; the ratio s of interpolation or NTK becomes s^kappa, the thresholds of YaRN are
    raised to kappa. Defaults are the paper's, whose time runs from data to noise. NTK is the exact form.
    """

    time_dependent = True

    class Config(RopeScalingConfig):
        """Method and strength."""

        method: Literal["ntk", "interpolation", "yarn"] = Field(
            "ntk", description="method whose strength depends on time"
        )
        scale: float = Field(2.0, ge=0, description="lambda_s, strength at noise")
        exponent: float = Field(2.0, gt=0, description="lambda_t, exponent of (1 - t)")
        beta_slow: float = Field(1.0, gt=0, description="of YaRN")
        beta_fast: float = Field(32.0, gt=0, description="of YaRN")

    config: Config

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        config = self.config
        kappa = config.scale * (1 - t) ** config.exponent
        scales = axis_ratios(rope_context, config)
        if config.method == "interpolation":
            return tuple(rate / s**kappa for rate, s in zip(freqs, scales, strict=True))
        if config.method == "ntk":
            return tuple(
                ntk_scale(r, s**kappa, rope_context.theta, ntk_exponent(r)) for r, s in zip(freqs, scales, strict=True)
            )
        axes = zip(freqs, scales, train_lengths(rope_context), strict=True)
        return tuple(yarn_scale(rate, s, at, config.beta_slow**kappa, config.beta_fast**kappa) for rate, s, at in axes)
