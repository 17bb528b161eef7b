"""Rotary frequencies for canvases larger than a model was trained at: one part a method, one ratio an axis.

What they share, and what s, f and w mean, stands in `scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.types import RopeContext


class RopeScalingConfig(Settings):
    """What every method of scaling is asked."""

    train_size: tuple[int, ...] | None = Field(
        None,
        description="sizes of the data trained at, one for all sides or one a side; none: the task's",
    )
    isotropic: bool = Field(
        False,
        description="one ratio for all axes, the root of the product of theirs, as published; false: each its own",
    )
    scale_down: bool = Field(
        False, description="scale smaller canvases too, as diffusers does; false: they keep the trained frequencies"
    )

    @field_validator("train_size", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


def axis_ratios(rope_context: RopeContext, config: RopeScalingConfig) -> tuple[float, ...]:
    """s of each axis; 1 for an axis on which training had no extent.

    Raises:
        ConfigError: nothing says at which size the model was trained.
    """
    lengths = train_lengths(rope_context)
    if config.isotropic:
        scales = [mean_ratio(rope_context)] * len(lengths)
    else:
        scales = [now / then if then > 1 else 1.0 for now, then in zip(rope_context.lengths, lengths, strict=True)]
    return tuple(scales if config.scale_down else (max(1.0, s) for s in scales))


def mean_ratio(rope_context: RopeContext) -> float:
    """The geometric mean of the ratios of the axes along which training had an extent: sqrt(w h / side^2)."""
    pairs = zip(rope_context.lengths, train_lengths(rope_context), strict=True)
    used = [now / then for now, then in pairs if then > 1]
    return math.prod(used) ** (1 / len(used)) if used else 1.0


def train_lengths(rope_context: RopeContext) -> tuple[float, ...]:
    """Tokens of each axis in training.

    Raises:
        ConfigError: nothing says at which size the model was trained.
    """
    if rope_context.train_lengths is None:
        raise ConfigError(
            "this extrapolation needs the size that the model was trained at; neither its task nor its recipe says it. "
            "Give it: sampling.rope_scaling.train_size in the recipe, or --rope-scaling NAME:train_size=SIDE"
        )
    return rope_context.train_lengths


def freq_index(freqs: Tensor, theta: float, first_index: int = 0) -> Tensor:
    """f of each frequency base^-f of an axis; `first` is the number that its first one is counted as."""
    return -freqs.log() / math.log(theta) + first_index / max(1, freqs.numel())


def ntk_exponent(freqs: Tensor) -> float:
    """w / (w - 2) for an axis of w channels, which has w / 2 frequencies; 1 for an axis with a single one."""
    dim = 2 * freqs.numel()
    return dim / (dim - 2) if dim > 2 else 1.0


def ntk_scale(freqs: Tensor, s: float, theta: float, power: float = 1.0) -> Tensor:
    """The same frequencies of a base that is s^power times larger."""
    return freqs * (-power * math.log(s) * freq_index(freqs, theta)).exp()


def clamped_ntk_scale(freqs: Tensor, s: float, theta: float, target_index: float, first_index: int = 0) -> Tensor:
    """NTK whose frequency at `target` is exactly interpolated; never lower than interpolation."""
    fraction = (
        (freq_index(freqs, theta, first_index) / target_index).clamp(0, 1)
        if target_index > 0
        else freqs.new_ones(freqs.shape)
    )
    return freqs * (-math.log(s) * fraction).exp()


def target_freq_index(length: float, theta: float) -> float:
    """f of the frequency whose wave is `length` tokens long: log_base(length / 2 pi)."""
    return math.log(length / (2 * math.pi)) / math.log(theta)


def yarn_scale(freqs: Tensor, s: float, length: float, beta_slow: float, beta_fast: float) -> Tensor:
    """Between interpolated and untouched, by the waves that fit into the trained length."""
    num_waves = length * freqs / (2 * math.pi)
    keep_fraction = ((num_waves - beta_slow) / max(beta_fast - beta_slow, 1e-9)).clamp(0, 1)
    return freqs / s * (1 - keep_fraction) + freqs * keep_fraction


class IndexedScaling(RopeScalingConfig):
    """Of methods in which the number of a frequency decides."""

    first_index: Literal[0, 1] = Field(
        0,
        description="number that an axis's first frequency is counted as: 0, it is never interpolated; 1, it is too, "
        "where its axis is",
    )


class NoScaling:
    """The trained frequencies, whatever the canvas: positions beyond the trained ones are new to the model."""

    time_dependent = False

    class Config(RopeScalingConfig):
        """Nothing to choose; the keys are those of the other methods."""

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(freqs)


class PositionInterpolation:
    """theta / s: positions are pressed into the trained length (arXiv 2306.15595; `linear_factor` as published)."""

    time_dependent = False

    class Config(RopeScalingConfig):
        """Only what every method is asked."""

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(rate / s for rate, s in zip(freqs, axis_ratios(rope_context, self.config), strict=True))


class NTKScaling:
    """The base grows with the canvas: high frequencies stay, low ones are interpolated (`ntk_factor` as published)."""

    time_dependent = False

    class Config(RopeScalingConfig):
        """How the base grows."""

        exact: bool = Field(
            False,
            description="base * s^(w / (w - 2)), w an axis's channels: its last frequency is exactly interpolated, as "
            "in language models; false: base * s, as published",
        )

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        return tuple(
            ntk_scale(rate, s, rope_context.theta, ntk_exponent(rate) if self.config.exact else 1.0)
            for rate, s in zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        )


class FrequencyAwareScaling:
    """Frequency-Aware Scaled RoPE (Lumina-Next): NTK up to the frequency whose wave is as long as the trained side.

    f_target = log_base(L / 2 pi), theta' = max(theta * s^(-f / f_target), theta / s): from f_target on it is
    interpolation. For L <= 2 pi there is no such frequency and all are interpolated (that guard is our own proposal).
    `first` as in `time_aware`.
    """

    time_dependent = False

    class Config(IndexedScaling):
        """How frequencies are counted."""

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        axes = zip(freqs, axis_ratios(rope_context, self.config), train_lengths(rope_context), strict=True)
        first_index = self.config.first_index
        return tuple(
            clamped_ntk_scale(rate, s, rope_context.theta, target_freq_index(length, rope_context.theta), first_index)
            for rate, s, length in axes
        )


class TimeAwareScaling:
    """Time-Aware Scaled RoPE (Lumina-Next): interpolation at noise that turns into NTK at data.

    d_t = (d - 1) t + 1, theta' = max(theta * s^(-e / d_t), theta / s), with d the head's width and e = f d. Computed by
    the logarithm of s, since s^(d / d_t) overflows near noise. At t = 1 it is NTK as published. Counting e from zero
    leaves the first frequency alone at every time, counting from one (`first: 1`) interpolates it at noise as well;
    nothing published says which, both readings are our own proposals. A model trained on few tokens needs the second.
    """

    time_dependent = True

    class Config(IndexedScaling):
        """How frequencies are counted."""

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        target_index = ((rope_context.head_dim - 1) * t + 1) / rope_context.head_dim
        axes = zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        return tuple(
            clamped_ntk_scale(rate, s, rope_context.theta, target_index, self.config.first_index) for rate, s in axes
        )


class SwitchScaling:
    """The published switch: interpolation before a time, NTK (base * s) from it on (`scale_watershed`)."""

    time_dependent = True

    class Config(RopeScalingConfig):
        """When to switch."""

        watershed: float = Field(
            0.3, ge=0, description="interpolation at times below it; sample.py takes 0.3, diffusers 1.0 (never NTK)"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        early = t < self.config.watershed
        axes = zip(freqs, axis_ratios(rope_context, self.config), strict=True)
        return tuple(rate / s if early else ntk_scale(rate, s, rope_context.theta) for rate, s in axes)


class YaRN:
    """NTK by parts (arXiv 2309.00071): waves that fit `fast` times into the trained side stay, those that fit less than
    `slow` times are interpolated, a linear ramp lies between; and attention is sharpened by (0.1 ln s + 1)^2.
    """

    time_dependent = False

    class Config(RopeScalingConfig):
        """Where the ramp begins and ends, and how much attention is sharpened."""

        beta_slow: float = Field(
            1.0, gt=0, description="waves in the trained side below which a frequency is interpolated"
        )
        beta_fast: float = Field(32.0, gt=0, description="waves above which it is left alone")
        temperature: float = Field(0.1, ge=0, description="attention's scale is multiplied by (this * ln s + 1)^2")

    def __init__(self, config: Config) -> None:
        if config.beta_slow >= config.beta_fast:
            raise ConfigError(f"core.yarn: slow {config.beta_slow} must be less than fast {config.beta_fast}")
        self.config, self.train_size = config, config.train_size

    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        axes = zip(freqs, axis_ratios(rope_context, self.config), train_lengths(rope_context), strict=True)
        return tuple(
            yarn_scale(rate, s, length, self.config.beta_slow, self.config.beta_fast) for rate, s, length in axes
        )

    def attn_scale(self, rope_context: RopeContext) -> float:
        """The factor of attention's scale; s is the geometric mean over the axes that are used."""
        return (self.config.temperature * math.log(max(1.0, mean_ratio(rope_context))) + 1) ** 2


class DyPE:
    """Dynamic Position Extrapolation (arXiv 2510.20766): a method whose scaling is strong at noise and gone at data.

    With their default scale 2 and exponent 2, kappa = scale * (1 - t)^exponent; the ratio s of interpolation or NTK
    becomes s^kappa, the thresholds of YaRN are raised to kappa. Their time runs the other way. NTK is the exact form.
    """

    time_dependent = True

    class Config(RopeScalingConfig):
        """Which method moves, and how strongly."""

        method: Literal["ntk", "interpolation", "yarn"] = Field("ntk", description="the method that is made dynamic")
        scale: float = Field(2.0, ge=0, description="lambda_s: how strong the scaling is at noise")
        exponent: float = Field(2.0, gt=0, description="lambda_t: how fast it goes")
        beta_slow: float = Field(1.0, gt=0, description="of YaRN")
        beta_fast: float = Field(32.0, gt=0, description="of YaRN")

    def __init__(self, config: Config) -> None:
        self.config, self.train_size = config, config.train_size

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
