"""The velocity of one batch of requests: what is prepared once, and what a change of time prepares again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.fitting import ContextDrop, Scalable, StepCache
from lumina_core.flow.guidance import guided, rescaled, within
from lumina_core.model import Model
from lumina_core.nn.context_drop import Pool
from lumina_core.nn.prepare import pooled_scale, proportional_scale
from lumina_core.nn.step_cache import Reuse
from lumina_core.parts import Extrapolation
from lumina_core.types import Canvas, Condition, Tokens

SCALABLE = ("canvas", "frequencies", "turned_again", "pool", "with_reuse")
"""What a backbone must be able to do for all of this."""


@dataclass(frozen=True)
class Scaled:
    """How attention is fitted to a canvas that training did not have.

    Attributes:
        extrapolation: of the rotary frequencies; None: the trained ones.
        trained: blank tokens of the trained size on the CPU; None where nobody says it.
        proportional: tokens in training, for proportional attention; None: the usual scale.
        drop: which blocks average their keys and values, and when; None: none ever does.
        cache: when blocks are left out because little has changed; None: never.
    """

    extrapolation: Extrapolation | None = None
    trained: Tokens | None = None
    proportional: int | None = None
    drop: ContextDrop | None = None
    cache: StepCache | None = None

    @property
    def plain(self) -> bool:
        """Whether there is nothing to fit."""
        return all(part is None for part in (self.extrapolation, self.proportional, self.drop, self.cache))


class Moved:
    """A velocity: tokens that a model moves under one condition.

    Args:
        places: blank tokens on the CPU; their values stand for nothing.
    """

    def __init__(self, model: Model, places: Tokens, condition: Condition, scaled: Scaled) -> None:
        self.model, self.condition, self.scaled = model, condition, scaled
        self.blank, self.extrapolation = on_device(places, model.device), scaled.extrapolation
        self.time: float | None = None
        if scaled.plain:
            self.prepared = model.prepare(self.blank, condition)
            return
        self.backbone = _scalable(model)
        self.canvases = _canvases(self.backbone, places, scaled.trained)
        self.own = self.backbone.frequencies(model.device)
        rates = self._rates(0.0)
        self.prepared = self.backbone.prepare(self.blank, condition, rates, self._scale())
        if scaled.drop is not None:
            pool = self.backbone.pool(self.blank, condition, _window(scaled.drop.window, self.canvases[0]))
            self.prepared = self.backbone.with_pool(self.prepared, pool, rates, self._scale(pool))
        if scaled.cache is not None:
            self.prepared = self.backbone.with_reuse(self.prepared, scaled.cache)

    def saved(self) -> tuple[int, Tensor] | None:
        """Evaluations asked for, and of how many each row (B,) did without the blocks; None without a step cache."""
        reuse: Reuse | None = None if self.scaled.cache is None else self.prepared.reuse
        return None if reuse is None or reuse.reused is None else (reuse.asked, reuse.reused)

    def at(self, time: float) -> None:
        """Told the time before it is asked: fit to it what depends on it."""
        if time == self.time:
            return
        self.time = time
        if self.extrapolation is not None and self.extrapolation.timed:
            rates = self._rates(time)
            self.prepared = self.backbone.turned_again(self.prepared, self.blank, self.condition, rates)
        if self.scaled.drop is not None:
            which = self.scaled.drop.pooled(self.backbone.depth, time)
            self.prepared = self.backbone.with_pooled(self.prepared, which)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        answer = self.model.velocity(self.blank.with_values(x), t, self.condition, prepared=self.prepared)
        # what pads an item stays the zeros that it was
        return answer if self.blank.mask is None else answer * self.blank.mask[..., None]

    def _rates(self, time: float) -> tuple[Tensor, ...]:
        """Of each axis, for all items alike or (B, 1, frequencies) where their canvases differ."""
        if self.extrapolation is None:
            return self.own
        found = {canvas: self.extrapolation(self.own, canvas, time) for canvas in set(self.canvases)}
        if len(found) == 1:
            return found[self.canvases[0]]
        each = [found[canvas] for canvas in self.canvases]
        return tuple(torch.stack(axis)[:, None] for axis in zip(*each, strict=True))

    def _scale(self, pool: Pool | None = None) -> float | Tensor | None:
        """Of the self-attention, or of that over averaged keys."""
        sharper, trained = getattr(self.extrapolation, "sharpness", None), self.scaled.proportional
        if trained is None and sharper is None:
            return None
        width = self.canvases[0].head_width
        scale: float | Tensor = width**-0.5
        if trained is not None and pool is not None:
            scale = pooled_scale(pool, trained, width)
        elif trained is not None:
            scale = proportional_scale(self.blank, self.condition.context, trained, width)
        if sharper is None:
            return scale
        factors: list[float] = [sharper(canvas) for canvas in self.canvases]
        if len(set(factors)) == 1:
            return scale * factors[0]
        return scale * torch.tensor(factors, device=self.model.device).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Guiding:
    """How what was said is strengthened.

    Attributes:
        scale: 1 adds nothing.
        only: which numbers of a token; None: all.
        rescale: how far the spread is brought back, 0 to 1.
        interval: times (0 noise, 1 data) between which it is at work; None: always.
        split: `together`, both halves in one batch; `apart`, one after the other, in half the memory; `auto`: together
            where that is quicker and fits.
    """

    scale: float = 1.0
    only: slice | None = None
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    split: Literal["auto", "together", "apart"] = "auto"


class Guided:
    """A velocity made of two: of what was said, and of silence (or of a weaker model).

    Args:
        said, against: make a half's velocity; made when they are first asked.
        both: makes the velocity of both halves in one batch, what was said first; None: they are always apart.
        how: `split: auto` begins together where `both` is given, and goes on apart where the memory does not suffice.

    Attributes:
        real: (B, N) bool, which tokens are no padding; None: all.
    """

    def __init__(
        self, said: Callable[[], Moved], against: Callable[[], Moved], both: Callable[[], Moved] | None, how: Guiding
    ) -> None:
        self._make = {"said": said, "against": against, "both": both or said}
        self._made: dict[str, Moved] = {}
        self.how, self.together, self.time = how, both is not None and how.split != "apart", 0.0
        self.real: Tensor | None = None

    def at(self, time: float) -> None:
        """Told the time before it is asked; the halves hear of it when they are."""
        self.time = time

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        how = self.how
        if how.scale == 1 or not within(self.time, how.interval):
            return self._asked("said", x, t)
        conditional, silent = self._halves(x, t)
        return rescaled(guided(conditional, silent, how.scale, how.only), conditional, how.rescale, self.real)

    def saved(self) -> tuple[int, Tensor] | None:
        """Halves asked for, and how many of them each item (B,) did without the blocks; None without a step cache."""
        told = {name: moved.saved() for name, moved in self._made.items()}
        there = [(2 if name == "both" else 1, *one) for name, one in told.items() if one is not None]
        if not there:
            return None
        rows = [reused.unflatten(0, (halves, -1)).sum(dim=0) for halves, _, reused in there]
        return sum(halves * asked for halves, asked, _ in there), torch.stack(rows).sum(dim=0)

    def _halves(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.together:
            try:
                conditional, silent = self._asked("both", torch.cat([x, x]), torch.cat([t, t])).chunk(2)
                return conditional, silent
            except (MemoryError, RuntimeError) as error:
                if self.how.split == "together" or not out_of_memory(error):
                    raise
                self.together = False
                self._made.pop("both", None)
        return self._asked("said", x, t), self._asked("against", x, t)

    def _asked(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        if name not in self._made:
            self._made[name] = self._make[name]()
        self._made[name].at(self.time)
        return self._made[name](x, t)


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what it says."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def on_device(tokens: Tokens, device: torch.device) -> Tokens:
    """The same tokens on a device."""
    mask = None if tokens.mask is None else tokens.mask.to(device)
    return Tokens(tokens.values.to(device), tokens.positions.to(device), tokens.extents, mask)


def _window(window: tuple[int, int, int], canvas: Canvas) -> tuple[int, int, int]:
    """Where tokens stand in a line along the first axis, windows of rows and columns are windows of that line."""
    in_a_line = canvas.lengths[1:] == (1, 1) and window[0] == 1
    return (max(window), 1, 1) if in_a_line else window


def twice(tokens: Tokens) -> Tokens:
    """A batch, and itself behind it; places that all items share stay shared."""
    shared = len(tokens.extents) == 1 or tokens.positions.stride(0) == 0
    positions, mask = tokens.positions, tokens.mask
    return Tokens(
        torch.cat([tokens.values, tokens.values]),
        positions[:1].expand(2 * len(tokens.extents), -1, -1) if shared else torch.cat([positions, positions]),
        tokens.extents * 2,
        None if mask is None else torch.cat([mask, mask]),
    )


def _canvases(backbone: Scalable, places: Tokens, trained: Tokens | None) -> tuple[Canvas, ...]:
    """One for all items of one size, else one an item."""
    if len(set(places.extents)) == 1:
        return (backbone.canvas(places, trained),)
    items = dict(zip(places.extents, places.items(), strict=True))
    found = {extent: backbone.canvas(item, trained) for extent, item in items.items()}
    return tuple(found[extent] for extent in places.extents)


def _scalable(model: Model) -> Scalable:
    if model.backbone is None:
        raise ConfigError("this model has no backbone: it was made to teach a conditioner and cannot generate")
    if not all(hasattr(model.backbone, name) for name in SCALABLE):
        raise ConfigError(
            f"the backbone {type(model.backbone).__name__} has no rotary positions to scale; ask without "
            "extrapolation, proportional attention, context drop and step cache"
        )
    return cast(Scalable, model.backbone)
