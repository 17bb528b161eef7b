"""Rotary frequencies for canvases larger than a model was trained at: one part a method, one ratio an axis.

What they share, and what s, f and w mean, stands in `scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.nn.scaling import (
    Scaling,
    based,
    by_parts,
    clamped,
    exponent,
    overall,
    ratios,
    target,
    trained_lengths,
)
from lumina_core.types import Canvas


class Counting(Scaling):
    """Of methods in which the number of a frequency decides."""

    first: Literal[0, 1] = Field(
        0,
        description="number that an axis's first frequency is counted as: 0, it is never interpolated; 1, it is too, "
        "where its axis is",
    )


class Untouched:
    """The trained frequencies, whatever the canvas: positions beyond the trained ones are new to the model."""

    timed = False

    class Config(Scaling):
        """Nothing to choose; the keys are those of the other methods."""

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        return tuple(rates)


class Interpolation:
    """theta / s: positions are pressed into the trained length (arXiv 2306.15595; `linear_factor` as published)."""

    timed = False

    class Config(Scaling):
        """Only what every method is asked."""

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        return tuple(rate / s for rate, s in zip(rates, ratios(canvas, self.config), strict=True))


class NTK:
    """The base grows with the canvas: high frequencies stay, low ones are interpolated (`ntk_factor` as published)."""

    timed = False

    class Config(Scaling):
        """How the base grows."""

        exact: bool = Field(
            False,
            description="base * s^(w / (w - 2)), w an axis's channels: its last frequency is exactly interpolated, as "
            "in language models; false: base * s, as published",
        )

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        return tuple(
            based(rate, s, canvas.base, exponent(rate) if self.config.exact else 1.0)
            for rate, s in zip(rates, ratios(canvas, self.config), strict=True)
        )


class FrequencyAware:
    """Frequency-Aware Scaled RoPE (Lumina-Next): NTK up to the frequency whose wave is as long as the trained side.

    f_target = log_base(L / 2 pi), theta' = max(theta * s^(-f / f_target), theta / s): from f_target on it is
    interpolation. For L <= 2 pi there is no such frequency and all are interpolated (that guard is our own proposal).
    `first` as in `time_aware`.
    """

    timed = False

    class Config(Counting):
        """How frequencies are counted."""

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        scaled = zip(rates, ratios(canvas, self.config), trained_lengths(canvas), strict=True)
        first = self.config.first
        return tuple(clamped(rate, s, canvas.base, target(length, canvas.base), first) for rate, s, length in scaled)


class TimeAware:
    """Time-Aware Scaled RoPE (Lumina-Next): interpolation at noise that turns into NTK at data.

    d_t = (d - 1) t + 1, theta' = max(theta * s^(-e / d_t), theta / s), with d the head's width and e = f d. Computed by
    the logarithm of s, since s^(d / d_t) overflows near noise. At t = 1 it is NTK as published. Counting e from zero
    leaves the first frequency alone at every time, counting from one (`first: 1`) interpolates it at noise as well;
    nothing published says which, both readings are our own proposals. A model trained on few tokens needs the second.
    """

    timed = True

    class Config(Counting):
        """How frequencies are counted."""

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        share = ((canvas.head_width - 1) * time + 1) / canvas.head_width
        scaled = zip(rates, ratios(canvas, self.config), strict=True)
        return tuple(clamped(rate, s, canvas.base, share, self.config.first) for rate, s in scaled)


class Watershed:
    """The published switch: interpolation before a time, NTK (base * s) from it on (`scale_watershed`)."""

    timed = True

    class Config(Scaling):
        """When to switch."""

        watershed: float = Field(
            0.3, ge=0, description="interpolation at times below it; sample.py takes 0.3, diffusers 1.0 (never NTK)"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        early = time < self.config.watershed
        scaled = zip(rates, ratios(canvas, self.config), strict=True)
        return tuple(rate / s if early else based(rate, s, canvas.base) for rate, s in scaled)


class YaRN:
    """NTK by parts (arXiv 2309.00071): waves that fit `fast` times into the trained side stay, those that fit less than
    `slow` times are interpolated, a linear ramp lies between; and attention is sharpened by (0.1 ln s + 1)^2.
    """

    timed = False

    class Config(Scaling):
        """Where the ramp begins and ends, and how much attention is sharpened."""

        slow: float = Field(1.0, gt=0, description="waves in the trained side below which a frequency is interpolated")
        fast: float = Field(32.0, gt=0, description="waves above which it is left alone")
        temperature: float = Field(0.1, ge=0, description="attention's scale is multiplied by (this * ln s + 1)^2")

    def __init__(self, config: Config) -> None:
        if config.slow >= config.fast:
            raise ConfigError(f"core.yarn: slow {config.slow} must be less than fast {config.fast}")
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        scaled = zip(rates, ratios(canvas, self.config), trained_lengths(canvas), strict=True)
        return tuple(by_parts(rate, s, length, self.config.slow, self.config.fast) for rate, s, length in scaled)

    def sharpness(self, canvas: Canvas) -> float:
        """The factor of attention's scale; s is the geometric mean over the axes that are used."""
        return (self.config.temperature * math.log(max(1.0, overall(canvas))) + 1) ** 2


class DyPE:
    """Dynamic Position Extrapolation (arXiv 2510.20766): a method whose scaling is strong at noise and gone at data.

    With their default scale 2 and exponent 2, kappa = scale * (1 - t)^exponent; the ratio s of interpolation or NTK
    becomes s^kappa, the thresholds of YaRN are raised to kappa. Their time runs the other way. NTK is the exact form.
    """

    timed = True

    class Config(Scaling):
        """Which method moves, and how strongly."""

        of: Literal["ntk", "interpolation", "yarn"] = Field("ntk", description="the method that is made dynamic")
        scale: float = Field(2.0, ge=0, description="lambda_s: how strong the scaling is at noise")
        exponent: float = Field(2.0, gt=0, description="lambda_t: how fast it goes")
        slow: float = Field(1.0, gt=0, description="of YaRN")
        fast: float = Field(32.0, gt=0, description="of YaRN")

    def __init__(self, config: Config) -> None:
        self.config, self.trained = config, config.trained

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        config = self.config
        kappa = config.scale * (1 - time) ** config.exponent
        grown = ratios(canvas, config)
        if config.of == "interpolation":
            return tuple(rate / s**kappa for rate, s in zip(rates, grown, strict=True))
        if config.of == "ntk":
            return tuple(based(r, s**kappa, canvas.base, exponent(r)) for r, s in zip(rates, grown, strict=True))
        scaled = zip(rates, grown, trained_lengths(canvas), strict=True)
        return tuple(by_parts(rate, s, at, config.slow**kappa, config.fast**kappa) for rate, s, at in scaled)
