"""Time-Aware Context Drop (Lumina-Next): keys and values averaged over space, in most blocks at noise, in none at data.

Queries stay whole, so nothing has to be put together again. The paper's code was not published. Ours: averaged before
the rotation and turned at the middle of the window (after it, a key's channels would be damped), padding left out, and
a window of n tokens weighs as n keys where windows are uneven; these choices are our own proposals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.nn.rotary import Turn


class TimeAwareDrop:
    """At time t, round(start (1 - t)^exponent depth) of the blocks average their keys and values."""

    class Config(Settings):
        """Which windows, how many blocks, which of them."""

        window: tuple[int, int, int] = Field(
            (1, 2, 2), description="tokens of a window along time, row and column; of tokens in a line, along the line"
        )
        start: float = Field(1.0, ge=0, le=1, description="share of the blocks that average at noise")
        exponent: float = Field(1.0, ge=0, description="how fast that share falls to none at data; 0: never")
        keep: Literal["last", "first", "spread"] = Field(
            "last", description="which blocks have their own keys back first"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.window = config, config.window

    def pooled(self, depth: int, time: float) -> tuple[bool, ...]:
        """Which of the blocks average at a time (0 noise, 1 data)."""
        count = round(self.config.start * (1 - time) ** self.config.exponent * depth)
        if self.config.keep == "spread":
            return tuple((block + 1) * count // depth > block * count // depth for block in range(depth))
        return tuple(block < count if self.config.keep == "last" else block >= depth - count for block in range(depth))


@dataclass(frozen=True)
class Pool:
    """How N tokens become M averages.

    Attributes:
        positions: (B or 1, M, 3) middles of the windows.
        fold: (a, i, b, j, c, k) where the tokens are a whole grid in order, a i x b j x c k: windows are a view of it.
        members: (B or 1, M, n) which tokens a window averages, and `weights`, how much each counts; None with a fold.
        bias: (B or 1, 1, 1, M) log of a window's tokens, -inf for an empty one; None where all are alike.
        counts: (B,) windows of each item that have tokens; None where all have M.
    """

    positions: Tensor
    fold: tuple[int, ...] | None = None
    members: Tensor | None = None
    weights: Tensor | None = None
    bias: Tensor | None = None
    counts: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, W) -> (B, M, W)."""
        if self.fold is not None:
            return _by_view(x, self.fold)
        assert self.members is not None and self.weights is not None
        width, total = x.shape[-1], torch.zeros((), dtype=x.dtype, device=x.device)
        weights = self.weights.to(x.dtype)
        for place in range(self.members.shape[2]):
            rows = self.members[:, :, place, None].expand(x.shape[0], -1, width)
            total = total + x.gather(1, rows) * weights[:, :, place, None]
        return total

    def to(self, device: torch.device) -> Pool:
        """The same on a device."""
        named = ("positions", "members", "weights", "bias", "counts")
        tensors = {name: getattr(self, name) for name in named}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})


@dataclass(frozen=True)
class Pooling:
    """What a block that averages its keys and values is handed: the pool, its angles, the scale of its attention."""

    pool: Pool
    turned: Turn
    scale: float | Tensor | None = None


def pool_of(places: Tensor, real: Tensor | None, window: tuple[int, int, int], free: int = 0) -> Pool:
    """Windows over tokens that stand at places (B, N, 3), from each axis's first place on.

    Args:
        places: on the CPU.
        real: (B, N) bool, or None where no token is padding.
        window: token pitches along the axes.
        free: so many tokens at the end are averaged with nobody (a context).
    """
    if real is None and (places.shape[0] == 1 or places.stride(0) == 0):
        fold = None if free else _whole_grid(places[0], window)
        if fold is not None:
            return Pool(_middles(places[0], fold)[None], fold)
        places = places[:1]
    items = [_windows(row, None if real is None else real[item], window, free) for item, row in enumerate(places)]
    return _padded(items)


def _by_view(x: Tensor, fold: tuple[int, ...]) -> Tensor:
    apart = x.unflatten(1, fold)
    parts = [apart[:, :, i, :, j, :, k] for i in range(fold[1]) for j in range(fold[3]) for k in range(fold[5])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    averages: Tensor = (total / len(parts)).flatten(1, 3)
    return averages


def _whole_grid(places: Tensor, window: tuple[int, int, int]) -> tuple[int, ...] | None:
    """The fold of tokens that are a whole grid in order whose sides the window divides; else None."""
    offset = places - places.amin(dim=0)
    sides = [int(side) + 1 for side in offset.amax(dim=0)]
    if sides[0] * sides[1] * sides[2] != len(places) or any(s % w for s, w in zip(sides, window, strict=True)):
        return None
    axes = torch.meshgrid(*[torch.arange(side, dtype=places.dtype) for side in sides], indexing="ij")
    if not torch.equal(torch.stack(axes, dim=-1).reshape(-1, 3), offset):
        return None
    return tuple(number for side, size in zip(sides, window, strict=True) for number in (side // size, size))


def _middles(places: Tensor, fold: tuple[int, ...]) -> Tensor:
    return _by_view(places[None], fold)[0]


def _windows(
    places: Tensor, real: Tensor | None, window: tuple[int, int, int], free: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(middles (M, 3), members (M, n), counts (M,)) of one item; members beyond a window's count repeat its first."""
    own = torch.arange(len(places)) if real is None else real.nonzero()[:, 0]
    last = len(places) - free
    pooled, alone = own[own < last], own[own >= last]
    start = places[pooled].amin(dim=0) if len(pooled) else torch.zeros(3)
    cells = ((places[pooled] - start) / torch.tensor(window, dtype=places.dtype)).floor()
    _, numbers, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
    order = numbers.argsort(stable=True)
    groups = [*pooled[order].split(counts.tolist()), *(alone[place : place + 1] for place in range(len(alone)))]
    members = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
    members = torch.where(members < 0, members[:, :1], members)
    counts = torch.cat([counts, counts.new_ones(len(alone))])
    weights = _weights(counts, members.shape[1])
    return (places[members] * weights[..., None]).sum(dim=1), members, counts


def _weights(counts: Tensor, most: int) -> Tensor:
    """(M, n): 1 / count for the first `count` members of each window, 0 for the others."""
    return (torch.arange(most) < counts[:, None]).float() / counts[:, None].clamp_min(1)


def _padded(items: list[tuple[Tensor, Tensor, Tensor]]) -> Pool:
    """One pool of several items; where some have fewer windows, the missing ones are empty."""
    most, widest = max(len(middles) for middles, _, _ in items), max(members.shape[1] for _, members, _ in items)

    def filled(rows: Tensor, columns: int | None = None) -> Tensor:
        wide = rows if columns is None else torch.nn.functional.pad(rows, (0, columns - rows.shape[1]))
        return torch.cat([wide, wide.new_zeros(most - len(wide), *wide.shape[1:])])

    positions = torch.stack([filled(middles) for middles, _, _ in items])
    members = torch.stack([filled(members, widest) for _, members, _ in items])
    counts = torch.stack([filled(counts) for _, _, counts in items])
    weights = torch.stack([_weights(row, widest) for row in counts])
    even = int(counts.min()) == int(counts.max())
    bias = None if even else counts.double().log().float()[:, None, None]
    short = None if bool((counts > 0).all()) else (counts > 0).sum(dim=1)
    return Pool(positions, None, members, weights, bias, short)
