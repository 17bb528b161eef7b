"""Time-Aware Context Drop (Lumina-Next): keys and values averaged over space, in most blocks at noise, in none at data.

Queries are not averaged, so the output has all tokens. The paper's code was not published; these details are choices of
this project: keys are averaged before the rotation and rotated at the centre of their window (averages of rotated keys
would be damped), padding is excluded, and where windows are uneven, a window of n tokens has the weight of n keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.protocols import AttentionTransform


class TimeAwareContextDrop:
    """At time t, round(max_fraction * (1 - t)^exponent * num_layers) blocks average their keys and values."""

    class Config(Settings):
        """Size of windows; number and choice of blocks."""

        window: tuple[int, int, int] = Field(
            (1, 2, 2),
            description="tokens of a window along time, row and column; for tokens on one axis, the largest of them",
        )
        max_fraction: float = Field(1.0, ge=0, le=1, description="fraction of the blocks that average at noise")
        exponent: float = Field(
            1.0, ge=0, description="of (1 - t), by which that fraction falls to 0 at data; 0: constant"
        )
        keep_blocks: Literal["last", "first", "spread"] = Field(
            "last", description="blocks that stop averaging first as t rises"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.window = config, config.window

    def dropped_blocks(self, num_layers: int, t: float) -> tuple[bool, ...]:
        """Return for each block whether it averages at time t (0 noise, 1 data)."""
        count = round(self.config.max_fraction * (1 - t) ** self.config.exponent * num_layers)
        if self.config.keep_blocks == "spread":
            return tuple((block + 1) * count // num_layers > block * count // num_layers for block in range(num_layers))
        return tuple(
            block < count if self.config.keep_blocks == "last" else block >= num_layers - count
            for block in range(num_layers)
        )


@dataclass(frozen=True)
class TokenPool:
    """Windows by which N tokens become M averages.

    Attributes:
        positions: (B or 1, M, 3), centres of the windows.
        grid_shape: (a, i, b, j, c, k) if the tokens are a full grid (a i, b j, c k) in order, with windows (i, j, k).
        members, weights: (B or 1, M, n), indices and weights of the tokens of each window; None with a grid shape.
        bias: (B or 1, 1, 1, M), log of the number of tokens in a window, -inf if empty; None if all are equal.
        counts: (B,), windows with tokens per item; None if all M have tokens.
    """

    positions: Tensor
    grid_shape: tuple[int, ...] | None = None
    members: Tensor | None = None
    weights: Tensor | None = None
    bias: Tensor | None = None
    counts: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Average x (B, N, C) over windows -> (B, M, C)."""
        if self.grid_shape is not None:
            return _pool_grid(x, self.grid_shape)
        assert self.members is not None and self.weights is not None
        dim, total = x.shape[-1], torch.zeros((), dtype=x.dtype, device=x.device)
        weights = self.weights.to(x.dtype)
        for index in range(self.members.shape[2]):
            rows = self.members[:, :, index, None].expand(x.shape[0], -1, dim)
            total = total + x.gather(1, rows) * weights[:, :, index, None]
        return total

    def attention(self, encoding: AttentionTransform, scale: float | Tensor | None = None) -> PooledAttention:
        """Return the inputs of an attention over these windows; see `PooledAttention`."""
        return PooledAttention(self, encoding, scale)

    def to(self, device: torch.device) -> TokenPool:
        """Move all tensors to a device."""
        tensors: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class PooledAttention:
    """Inputs of an attention that averages keys and values.

    Attributes:
        pool: the windows.
        encoding: position encoding of their centres.
        scale: of the scores; None: head_dim ** -0.5.
    """

    pool: TokenPool
    encoding: AttentionTransform
    scale: float | Tensor | None = None


def make_token_pool(
    positions: Tensor, mask: Tensor | None, window: tuple[int, int, int], num_unpooled: int = 0
) -> TokenPool:
    """Divide tokens into windows, from the smallest position of each axis on.

    Args:
        positions: (B, N, 3), on the CPU.
        mask: (B, N) bool, or None without padding.
        window: size along the axes, in token units.
        num_unpooled: tokens at the end that are not averaged (reference tokens).
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
    """Return the grid shape if the tokens are a full grid in order whose sides the window divides, else None."""
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
    """Return centres (M, 3), members (M, n) and counts (M,) of one item.

    Members beyond a window's count repeat its first member.
    """
    real_index = torch.arange(len(positions)) if mask is None else mask.nonzero()[:, 0]
    last = len(positions) - num_unpooled
    pooled_index, unpooled_index = real_index[real_index < last], real_index[real_index >= last]
    start = positions[pooled_index].amin(dim=0) if len(pooled_index) else torch.zeros(3)
    cells = ((positions[pooled_index] - start) / torch.tensor(window, dtype=positions.dtype)).floor()
    _, window_index, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
    order = window_index.argsort(stable=True)
    groups = [*pooled_index[order].split(counts.tolist()), *(index[None] for index in unpooled_index)]
    members = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
    members = torch.where(members < 0, members[:, :1], members)
    counts = torch.cat([counts, counts.new_ones(len(unpooled_index))])
    weights = _mean_weights(counts, members.shape[1])
    return (positions[members] * weights[..., None]).sum(dim=1), members, counts


def _mean_weights(counts: Tensor, max_count: int) -> Tensor:
    """Return (M, n): 1 / count for the first `count` members of each window, 0 for the others."""
    return (torch.arange(max_count) < counts[:, None]).float() / counts[:, None].clamp_min(1)


def _stack_windows(items: list[tuple[Tensor, Tensor, Tensor]]) -> TokenPool:
    """Stack the windows of items into one pool; items with fewer windows get empty ones."""
    max_windows = max(len(centres) for centres, _, _ in items)
    max_members = max(members.shape[1] for _, members, _ in items)

    def pad(rows: Tensor, columns: int | None = None) -> Tensor:
        wide = rows if columns is None else torch.nn.functional.pad(rows, (0, columns - rows.shape[1]))
        return torch.cat([wide, wide.new_zeros(max_windows - len(wide), *wide.shape[1:])])

    positions = torch.stack([pad(centres) for centres, _, _ in items])
    members = torch.stack([pad(members, max_members) for _, members, _ in items])
    counts = torch.stack([pad(counts) for _, _, counts in items])
    weights = torch.stack([_mean_weights(row, max_members) for row in counts])
    equal_counts = int(counts.min()) == int(counts.max())
    bias = None if equal_counts else counts.double().log().float()[:, None, None]
    num_windows = None if bool((counts > 0).all()) else (counts > 0).sum(dim=1)
    return TokenPool(positions, None, members, weights, bias, num_windows)
