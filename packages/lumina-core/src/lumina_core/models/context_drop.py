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
from lumina_core.models.rope import RotaryEmbedding


class TimeAwareContextDrop:
    """At time t, round(start (1 - t)^exponent depth) of the blocks average their keys and values."""

    class Config(Settings):
        """Which windows, how many blocks, which of them."""

        window: tuple[int, int, int] = Field(
            (1, 2, 2), description="tokens of a window along time, row and column; of tokens in a line, along the line"
        )
        max_fraction: float = Field(1.0, ge=0, le=1, description="share of the blocks that average at noise")
        exponent: float = Field(1.0, ge=0, description="how fast that share falls to none at data; 0: never")
        keep_blocks: Literal["last", "first", "spread"] = Field(
            "last", description="which blocks have their own keys back first"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.window = config, config.window

    def dropped_blocks(self, num_layers: int, t: float) -> tuple[bool, ...]:
        """Which of the blocks average at a time (0 noise, 1 data)."""
        count = round(self.config.max_fraction * (1 - t) ** self.config.exponent * num_layers)
        if self.config.keep_blocks == "spread":
            return tuple((block + 1) * count // num_layers > block * count // num_layers for block in range(num_layers))
        return tuple(
            block < count if self.config.keep_blocks == "last" else block >= num_layers - count
            for block in range(num_layers)
        )


@dataclass(frozen=True)
class TokenPool:
    """How N tokens become M averages.

    Attributes:
        positions: (B or 1, M, 3) middles of the windows.
        fold: (a, i, b, j, c, k) where the tokens are a whole grid in order, a i x b j x c k: windows are a view of it.
        members: (B or 1, M, n) which tokens a window averages, and `weights`, how much each counts; None with a fold.
        bias: (B or 1, 1, 1, M) log of a window's tokens, -inf for an empty one; None where all are alike.
        counts: (B,) windows of each item that have tokens; None where all have M.
    """

    positions: Tensor
    grid_shape: tuple[int, ...] | None = None
    members: Tensor | None = None
    weights: Tensor | None = None
    bias: Tensor | None = None
    counts: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, W) -> (B, M, W)."""
        if self.grid_shape is not None:
            return _pool_grid(x, self.grid_shape)
        assert self.members is not None and self.weights is not None
        dim, total = x.shape[-1], torch.zeros((), dtype=x.dtype, device=x.device)
        weights = self.weights.to(x.dtype)
        for index in range(self.members.shape[2]):
            rows = self.members[:, :, index, None].expand(x.shape[0], -1, dim)
            total = total + x.gather(1, rows) * weights[:, :, index, None]
        return total

    def to(self, device: torch.device) -> TokenPool:
        """The same on a device."""
        named = ("positions", "members", "weights", "bias", "counts")
        tensors = {name: getattr(self, name) for name in named}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})


@dataclass(frozen=True)
class PooledAttention:
    """What a block that averages its keys and values is handed: the pool, its angles, the scale of its attention."""

    pool: TokenPool
    rope: RotaryEmbedding
    scale: float | Tensor | None = None


def make_token_pool(
    positions: Tensor, mask: Tensor | None, window: tuple[int, int, int], num_unpooled: int = 0
) -> TokenPool:
    """Windows over tokens that stand at places (B, N, 3), from each axis's first place on.

    Args:
        places: on the CPU.
        real: (B, N) bool, or None where no token is padding.
        window: token pitches along the axes.
        free: so many tokens at the end are averaged with nobody (a context).
    """
    if mask is None and (positions.shape[0] == 1 or positions.stride(0) == 0):
        grid_shape = None if num_unpooled else _find_grid_shape(positions[0], window)
        if grid_shape is not None:
            return TokenPool(_window_centers(positions[0], grid_shape)[None], grid_shape)
        positions = positions[:1]
    windows = [
        _irregular_windows(row, None if mask is None else mask[item], window, num_unpooled)
        for item, row in enumerate(positions)
    ]
    return _stack_windows(windows)


def _pool_grid(x: Tensor, grid_shape: tuple[int, ...]) -> Tensor:
    grid = x.unflatten(1, grid_shape)
    parts = [
        grid[:, :, i, :, j, :, k]
        for i in range(grid_shape[1])
        for j in range(grid_shape[3])
        for k in range(grid_shape[5])
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    averages: Tensor = (total / len(parts)).flatten(1, 3)
    return averages


def _find_grid_shape(positions: Tensor, window: tuple[int, int, int]) -> tuple[int, ...] | None:
    """The fold of tokens that are a whole grid in order whose sides the window divides; else None."""
    offset = positions - positions.amin(dim=0)
    sides = [int(side) + 1 for side in offset.amax(dim=0)]
    if sides[0] * sides[1] * sides[2] != len(positions) or any(s % w for s, w in zip(sides, window, strict=True)):
        return None
    axes = torch.meshgrid(*[torch.arange(side, dtype=positions.dtype) for side in sides], indexing="ij")
    if not torch.equal(torch.stack(axes, dim=-1).reshape(-1, 3), offset):
        return None
    return tuple(number for side, size in zip(sides, window, strict=True) for number in (side // size, size))


def _window_centers(positions: Tensor, grid_shape: tuple[int, ...]) -> Tensor:
    return _pool_grid(positions[None], grid_shape)[0]


def _irregular_windows(
    positions: Tensor, mask: Tensor | None, window: tuple[int, int, int], num_unpooled: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(middles (M, 3), members (M, n), counts (M,)) of one item; members beyond a window's count repeat its first."""
    real_index = torch.arange(len(positions)) if mask is None else mask.nonzero()[:, 0]
    last = len(positions) - num_unpooled
    pooled_index, unpooled_index = real_index[real_index < last], real_index[real_index >= last]
    start = positions[pooled_index].amin(dim=0) if len(pooled_index) else torch.zeros(3)
    cells = ((positions[pooled_index] - start) / torch.tensor(window, dtype=positions.dtype)).floor()
    _, window_index, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
    order = window_index.argsort(stable=True)
    groups = [
        *pooled_index[order].split(counts.tolist()),
        *(unpooled_index[place : place + 1] for place in range(len(unpooled_index))),
    ]
    members = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
    members = torch.where(members < 0, members[:, :1], members)
    counts = torch.cat([counts, counts.new_ones(len(unpooled_index))])
    weights = _mean_weights(counts, members.shape[1])
    return (positions[members] * weights[..., None]).sum(dim=1), members, counts


def _mean_weights(counts: Tensor, max_count: int) -> Tensor:
    """(M, n): 1 / count for the first `count` members of each window, 0 for the others."""
    return (torch.arange(max_count) < counts[:, None]).float() / counts[:, None].clamp_min(1)


def _stack_windows(items: list[tuple[Tensor, Tensor, Tensor]]) -> TokenPool:
    """One pool of several items; where some have fewer windows, the missing ones are empty."""
    max_windows, max_members = (
        max(len(middles) for middles, _, _ in items),
        max(members.shape[1] for _, members, _ in items),
    )

    def pad(rows: Tensor, columns: int | None = None) -> Tensor:
        wide = rows if columns is None else torch.nn.functional.pad(rows, (0, columns - rows.shape[1]))
        return torch.cat([wide, wide.new_zeros(max_windows - len(wide), *wide.shape[1:])])

    positions = torch.stack([pad(middles) for middles, _, _ in items])
    members = torch.stack([pad(members, max_members) for _, members, _ in items])
    counts = torch.stack([pad(counts) for _, _, counts in items])
    weights = torch.stack([_mean_weights(row, max_members) for row in counts])
    equal_counts = int(counts.min()) == int(counts.max())
    bias = None if equal_counts else counts.double().log().float()[:, None, None]
    num_windows = None if bool((counts > 0).all()) else (counts > 0).sum(dim=1)
    return TokenPool(positions, None, members, weights, bias, num_windows)
