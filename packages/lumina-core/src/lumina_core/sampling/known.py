"""Data that is there before the way begins: where it enters, how its known part is held, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.errors import ConfigError
from lumina_core.flow.path import mix, velocity_between
from lumina_core.flow.times import cut
from lumina_core.model import Model
from lumina_core.parts import Path_, Velocity
from lumina_core.request import Request
from lumina_core.sampling.given import Given, check_values
from lumina_core.types import Extent, Known, check_shape


def known_of(model: Model, requests: Sequence[Request], given: Given, extent: Callable[[], Extent]) -> Known | None:
    """What the results begin from, as a batch of one for all or of one a result; None: of noise alone.

    Args:
        extent: gives the one size of all results, or refuses; asked only where there is something to begin from.

    Raises:
        ConfigError: some of the requests begin from data and others do not, or with another strength.
        ShapeError: the data is of another size than was asked for.
    """
    known = _given(given) or _asked(model, requests, extent)
    if known is not None:
        check_shape(known.data, (None, None, *extent()), "the data to begin from")
        cut(torch.zeros(1), known.strength)  # refuses what lies outside 0..1 before anything is computed
    return known


def fitting(model: Model, extent: Extent) -> Extent:
    """The smallest sizes from `extent` on that this model's autoencoder and tokenizer can cut."""
    pitch = getattr(model.tokenizer, "pitch", (1,) * len(extent))
    steps = [stride * cells for stride, cells in zip(model.autoencoder.stride, pitch, strict=True)]
    return tuple(-(-side // step) * step for side, step in zip(extent, steps, strict=True))


@dataclass(frozen=True)
class Begun:
    """Where a way begins, what of it is held, and how its end becomes data.

    Attributes:
        x: (B, N, D) to begin with.
        grid: times that are still to go.
        hold: what is known of x at every time; None: nothing.
        known: what is laid over the data in the end; None: nothing.
    """

    x: Tensor
    grid: Tensor
    hold: Hold | None = None
    known: Known | None = None

    def velocity(self, velocity: Velocity) -> Velocity:
        """The velocity of the way: where x is known, that of its own path."""
        return velocity if self.hold is None else _Held(velocity, self.hold)

    def kept(self, values: Tensor, time: float) -> Tensor:
        """Values of a step, what is known of them exactly where it belongs at this time."""
        return values if self.hold is None else self.hold.put(values, time)

    def finished(self, data: Tensor) -> Tensor:
        """(B, channels, ...) as it was decoded, in the size of what was there, with the kept part of that."""
        if self.known is None or self.known.kept is None:
            return data
        kept, there = (part.to(data.device) for part in (self.known.kept[:, None], self.known.data))
        # a product with exactly 1, and one with exactly 0: not a digit is lost
        return kept * there + (1 - kept) * data


class Hold:
    """The known numbers of tokens: each lies on the path between its own noise and its own data, all the way.

    After RePaint (arXiv 2201.09865), which puts the known part in at every step; on a flow it keeps its first noise, so
    that it moves along one straight line, and the velocity there is known as well. Solvers of any order see it so.
    """

    def __init__(self, path: Path_, noise: Tensor, data: Tensor, where: Tensor) -> None:
        self.path, self.noise, self.data, self.where = path, noise, data, where

    def slope(self, velocity: Tensor, time: Tensor) -> Tensor:
        """A velocity (B, N, D) at time (B,), the known numbers' own where they are known."""
        return torch.where(self.where, velocity_between(self.path, self.noise, self.data, time), velocity)

    def put(self, values: Tensor, time: float) -> Tensor:
        """Values (B, N, D) with the known numbers where they are at this time."""
        at = values.new_full((len(values),), time)
        return torch.where(self.where, mix(self.path, self.noise, self.data, at), values)


class _Held:
    """A velocity under which known numbers go their own way."""

    def __init__(self, velocity: Velocity, hold: Hold) -> None:
        self.velocity, self.hold = velocity, hold
        self._told: Callable[[float], None] | None = getattr(velocity, "at", None)

    def at(self, time: float) -> None:
        """Told the time before it is asked."""
        if self._told is not None:
            self._told(time)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.hold.slope(self.velocity(x, t), t)


def begin(model: Model, known: Known | None, extent: Extent, grid: Tensor, noise: Tensor) -> Begun:
    """Noise alone, or data with as much noise as its strength says.

    Args:
        extent: sizes that the model can cut; data is filled up to them by repeating its border.
        noise: (B, N, D).

    Raises:
        ConfigError: the objective names no path.
    """
    if known is None:
        return Begun(noise, grid)
    path: Path_ | None = getattr(model.objective, "path", None)
    if path is None:
        raise ConfigError("this model's objective names no path, so nobody knows how data and noise are mixed on it")
    left = cut(grid, known.strength)
    data = _tokens(model, _filled(known.data, extent), noise)
    x = mix(path, noise, data, noise.new_full((len(noise),), float(left[0])))
    hold = None if known.kept is None else Hold(path, noise, data, _where(model, known.kept, extent, noise.device))
    if len(left) == 1:  # nothing is to change
        known = replace(known, kept=torch.ones_like(known.data[:, 0]))
    return Begun(x, left, hold, known)


def _tokens(model: Model, data: Tensor, noise: Tensor) -> Tensor:
    weighed = model.autoencoder if isinstance(model.autoencoder, nn.Module) else nn.Module()
    dtype = next((weight.dtype for weight in weighed.parameters()), torch.float32)
    with model.at_work("autoencoder"):
        latent = model.autoencoder.encode(data.to(model.device, dtype)).float()
    values = model.tokenizer.tokens(latent).values
    if len(values) == 1:
        values = values.expand(len(noise), -1, -1)
    check_values(values, noise.shape, "the given data")
    return values


def _where(model: Model, kept: Tensor, extent: Extent, device: torch.device) -> Tensor:
    """(B, N, D) bool: numbers of tokens that stand for kept places alone."""
    missing = [(0, side - there) for side, there in zip(extent, kept.shape[1:], strict=True)]
    whole = F.pad(kept, [edge for pair in reversed(missing) for edge in pair])
    for axis, stride in enumerate(model.autoencoder.stride, start=1):
        whole = whole.unflatten(axis, (-1, stride)).amin(dim=axis + 1)
    latent = whole[:, None].expand(-1, model.autoencoder.channels, *whole.shape[1:])
    return model.tokenizer.tokens(latent).values.to(device) == 1


def _filled(data: Tensor, extent: Extent) -> Tensor:
    missing = [(0, side - there) for side, there in zip(extent, data.shape[2:], strict=True)]
    edges = [edge for pair in reversed(missing) for edge in pair]
    return F.pad(data, edges, mode="replicate") if any(edges) else data


def _given(given: Given) -> Known | None:
    return None if given.data is None else Known(given.data.float(), given.strength)


def _asked(model: Model, requests: Sequence[Request], extent: Callable[[], Extent]) -> Known | None:
    ask = getattr(model.task, "known", None)
    found: list[Known | None] = [None if ask is None else ask(request) for request in requests]
    there = [known for known in found if known is not None]
    if not there:
        return None
    if len(there) < len(found) or any(known.strength != there[0].strength for known in there):
        raise ConfigError("requests of one batch must all begin from data, with one strength, or none of them")
    extent()  # refuses several sizes
    if all(known is there[0] for known in there):
        return replace(there[0], data=there[0].data[None], kept=None if (k := there[0].kept) is None else k[None])
    rows = [known for known, request in zip(there, requests, strict=True) for _ in range(request.count)]
    data = torch.stack([known.data for known in rows])
    if all(known.kept is None for known in rows):
        return replace(rows[0], data=data)
    return replace(rows[0], data=data, kept=torch.stack([_kept(known) for known in rows]))


def _kept(known: Known) -> Tensor:
    return torch.zeros_like(known.data[0]) if known.kept is None else known.kept
