"""The velocity of one batch of requests: what is prepared once, and what a change of time prepares again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.guidance import guided
from lumina_core.model import Model
from lumina_core.nn.prepare import proportional_scale
from lumina_core.parts import Extrapolation, Scalable
from lumina_core.types import Condition, Tokens


@dataclass(frozen=True)
class Scaled:
    """How attention is fitted to a canvas that training did not have.

    Attributes:
        extrapolation: of the rotary frequencies; None: the trained ones.
        trained: blank tokens of the trained size on the CPU; None where nobody says it.
        proportional: tokens in training, for proportional attention; None: the usual scale.
    """

    extrapolation: Extrapolation | None = None
    trained: Tokens | None = None
    proportional: int | None = None


class Moved:
    """A velocity: tokens that a model moves under one condition.

    Args:
        places: blank tokens on the CPU; their values stand for nothing.
    """

    def __init__(self, model: Model, places: Tokens, condition: Condition, scaled: Scaled) -> None:
        self.model, self.condition, self.extrapolation = model, condition, scaled.extrapolation
        self.blank = on_device(places, model.device)
        self.time: float | None = None
        if scaled.extrapolation is None and scaled.proportional is None:
            self.prepared = model.prepare(self.blank, condition)
            return
        self.backbone = _scalable(model)
        self.canvas = self.backbone.canvas(places, scaled.trained)
        self.own = self.backbone.frequencies(model.device)
        self.prepared = self.backbone.prepare(self.blank, condition, self._rates(0.0), self._scale(scaled))

    def at(self, time: float) -> None:
        """Told the time before it is asked: fit to it what depends on it."""
        if self.extrapolation is not None and self.extrapolation.timed and time != self.time:
            rates = self.extrapolation(self.own, self.canvas, time)
            self.prepared = self.backbone.turned_again(self.prepared, self.blank, self.condition, rates)
        self.time = time

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model.velocity(self.blank.with_values(x), t, self.condition, prepared=self.prepared)

    def _rates(self, time: float) -> tuple[Tensor, ...]:
        return self.own if self.extrapolation is None else self.extrapolation(self.own, self.canvas, time)

    def _scale(self, scaled: Scaled) -> float | Tensor | None:
        sharper = getattr(self.extrapolation, "sharpness", None)
        if scaled.proportional is None and sharper is None:
            return None
        scale: float | Tensor = self.canvas.head_width**-0.5
        if scaled.proportional is not None:
            context = self.condition.context
            scale = proportional_scale(self.blank, context, scaled.proportional, self.canvas.head_width)
        return scale if sharper is None else scale * sharper(self.canvas)


class Guided:
    """A velocity: both halves in one batch, what was said first and the silence behind it, and one made of them."""

    def __init__(self, both: Moved, scale: float, only: slice | None) -> None:
        self.both, self.scale, self.only = both, scale, only

    def at(self, time: float) -> None:
        """Told the time before it is asked."""
        self.both.at(time)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        conditional, silent = self.both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return guided(conditional, silent, self.scale, self.only)


def on_device(tokens: Tokens, device: torch.device) -> Tokens:
    """The same tokens on a device."""
    mask = None if tokens.mask is None else tokens.mask.to(device)
    return Tokens(tokens.values.to(device), tokens.positions.to(device), tokens.extents, mask)


def _scalable(model: Model) -> Scalable:
    if model.backbone is None:
        raise ConfigError("this model has no backbone: it was made to teach a conditioner and cannot generate")
    if not all(hasattr(model.backbone, name) for name in ("canvas", "frequencies", "turned_again")):
        raise ConfigError(
            f"the backbone {type(model.backbone).__name__} has no rotary positions to scale; ask without extrapolation "
            "and proportional attention"
        )
    return cast(Scalable, model.backbone)
