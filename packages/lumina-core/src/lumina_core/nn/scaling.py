"""What methods of scaling rotary frequencies share: the ratio of each axis, and a frequency moved by it.

All but YaRN are theta * s^-w: s is the ratio of lengths along an axis, and w in 0..1 says how far a frequency is
interpolated (1: its positions are pressed into the trained length; 0: left as it is). A frequency theta = base^-f has
its place f in 0..1 on the scale of a head's channels (f = 6 d / head width with three axes, 4 j / head width with two).
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.types import Canvas


class Scaling(Settings):
    """What every method of scaling is asked."""

    trained: tuple[int, ...] | None = Field(
        None,
        description="sizes of the data trained at, one for all sides or one a side; none: the task's",
    )
    isotropic: bool = Field(
        False,
        description="one ratio for all axes, the root of the product of theirs, as published; false: each its own",
    )
    shrink: bool = Field(
        False, description="scale smaller canvases too, as diffusers does; false: they keep the trained frequencies"
    )

    @field_validator("trained", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


def ratios(canvas: Canvas, how: Scaling) -> tuple[float, ...]:
    """s of each axis; 1 for an axis on which training had no extent.

    Raises:
        ConfigError: nothing says at which size the model was trained.
    """
    trained = trained_lengths(canvas)
    if how.isotropic:
        grown = [overall(canvas)] * len(trained)
    else:
        grown = [now / then if then > 1 else 1.0 for now, then in zip(canvas.lengths, trained, strict=True)]
    return tuple(grown if how.shrink else (max(1.0, s) for s in grown))


def overall(canvas: Canvas) -> float:
    """The geometric mean of the ratios of the axes along which training had an extent: sqrt(w h / side^2)."""
    pairs = zip(canvas.lengths, trained_lengths(canvas), strict=True)
    used = [now / then for now, then in pairs if then > 1]
    return math.prod(used) ** (1 / len(used)) if used else 1.0


def trained_lengths(canvas: Canvas) -> tuple[float, ...]:
    """Tokens of each axis in training.

    Raises:
        ConfigError: nothing says at which size the model was trained.
    """
    if canvas.trained is None:
        raise ConfigError(
            "this extrapolation needs the size that the model was trained at; neither its task nor its recipe says it. "
            "Give it: sampling.extrapolation.trained in the recipe, or --extrapolation NAME:trained=SIDE"
        )
    return canvas.trained


def place(rates: Tensor, base: float, first: int = 0) -> Tensor:
    """f of each frequency base^-f of an axis; `first` is the number that its first one is counted as."""
    return -rates.log() / math.log(base) + first / max(1, rates.numel())


def exponent(rates: Tensor) -> float:
    """w / (w - 2) for an axis of w channels, which has w / 2 frequencies; 1 for an axis with a single one."""
    width = 2 * rates.numel()
    return width / (width - 2) if width > 2 else 1.0


def based(rates: Tensor, s: float, base: float, power: float = 1.0) -> Tensor:
    """The same frequencies of a base that is s^power times larger."""
    return rates * (-power * math.log(s) * place(rates, base)).exp()


def clamped(rates: Tensor, s: float, base: float, target: float, first: int = 0) -> Tensor:
    """NTK whose frequency at `target` is exactly interpolated; never lower than interpolation."""
    share = (place(rates, base, first) / target).clamp(0, 1) if target > 0 else rates.new_ones(rates.shape)
    return rates * (-math.log(s) * share).exp()


def target(length: float, base: float) -> float:
    """f of the frequency whose wave is `length` tokens long: log_base(length / 2 pi)."""
    return math.log(length / (2 * math.pi)) / math.log(base)


def by_parts(rates: Tensor, s: float, length: float, slow: float, fast: float) -> Tensor:
    """Between interpolated and untouched, by the waves that fit into the trained length."""
    waves = length * rates / (2 * math.pi)
    kept = ((waves - slow) / max(fast - slow, 1e-9)).clamp(0, 1)
    return rates / s * (1 - kept) + rates * kept
