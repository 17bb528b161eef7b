"""Tokenizers of regular grids, and the autoencoder of models that work on the pixels themselves."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder, Tokenizer
from lumina_core.types import Size, Tokens, check_shape


class GridPatchify(Tokenizer):
    """Tokenizer that cuts a latent (B, C, ...) into patches, the last dimension fastest; it has no weights.

    Attributes:
        dimensions: names of the dimensions of the grid.
        axes: axis of the positions for each dimension; the others are 0.
        whole: number of leading dimensions that are not cut, whose patch size is 1.
    """

    dimensions: ClassVar[tuple[str, ...]]
    axes: ClassVar[tuple[int, ...]]
    whole: ClassVar[int] = 0

    class Config(Settings):
        """Size of a patch."""

        patch_size: int = Field(2, ge=1, le=64, description="side of a patch in pixels or frames of the latent")
        channels: int = Field(4, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config, self.channels = config, config.channels
        self.patch_size: tuple[int, ...] = tuple(
            1 if index < self.whole else config.patch_size for index in range(len(self.axes))
        )
        self.width = config.channels * math.prod(self.patch_size)

    def patchify(self, latent: Tensor) -> Tokens:
        """Cut a latent into tokens.

        Args:
            latent: (B, C, ...).

        Returns:
            Tokens with values (B, N, width), each in the order of the channels, then of the dimensions, and positions
            in token units, float32, one table shared by the batch.

        Raises:
            ShapeError: the latent has other channels, or a side is not a multiple of the patch size.
        """
        check_shape(latent, (None, self.channels, *(None for _ in self.axes)), "a latent")
        size, count = tuple(latent.shape[2:]), len(self.axes)
        grid = self._grid(size)
        sides = [side for pair in zip(grid, self.patch_size, strict=True) for side in pair]
        order = (0, *range(2, 2 + 2 * count, 2), 1, *range(3, 3 + 2 * count, 2))
        patches = latent.reshape(len(latent), self.channels, *sides).permute(order)
        values = patches.reshape(len(latent), math.prod(grid), self.width)
        return Tokens(values, self._positions(len(latent), grid, latent.device), (size,) * len(latent))

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Join tokens of one size, without padding, to a latent (B, C, ...): the exact inverse of `patchify`.

        Raises:
            ShapeError: the items have different sizes, or number or width of the tokens do not match the size.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"tokens.sizes: got {len(set(tokens.sizes))} sizes, expected one. "
                "Unpatchify the items of Tokens.items() one by one."
            )
        size, count = tokens.sizes[0], len(self.axes)
        grid = self._grid(size)
        check_shape(tokens.values, (len(tokens.sizes), math.prod(grid), self.width), f"tokens of a latent {size}")
        patches = tokens.values.reshape(-1, *grid, self.channels, *self.patch_size)
        pairs = [axis for index in range(count) for axis in (1 + index, 2 + count + index)]
        return patches.permute(0, 1 + count, *pairs).reshape(-1, self.channels, *size)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Return tokens of zeros with the positions of a latent of this size."""
        grid = self._grid(size)
        values = torch.zeros(batch, math.prod(grid), self.width)
        return Tokens(values, self._positions(batch, grid, values.device), (size,) * batch)

    def _grid(self, size: Size) -> tuple[int, ...]:
        """Return the number of patches along each dimension."""
        if len(size) != len(self.axes) or min(size) < 1:
            names = ", ".join(self.dimensions)
            raise ShapeError(f"latent size: got {size}, expected ({names}), each at least 1.")
        if any(side % patch for side, patch in zip(size, self.patch_size, strict=True)):
            raise ShapeError(self._misfit_message(size))
        return tuple(side // patch for side, patch in zip(size, self.patch_size, strict=True))

    def _misfit_message(self, size: Size) -> str:
        pairs = list(zip(size, self.patch_size, strict=True))
        smaller = [max(side // patch, 1) * patch for side, patch in pairs]
        larger = [-(-side // patch) * patch for side, patch in pairs]
        nearest = dict.fromkeys("x".join(map(str, sides)) for sides in (smaller, larger))
        return (
            f"latent size: got {'x'.join(map(str, size))} ({' x '.join(self.dimensions)}), expected multiples of the "
            f"patch size {self.config.patch_size}. Nearest: {' or '.join(nearest)}."
        )

    def _positions(self, batch: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
        sides = [torch.arange(side, dtype=torch.float32, device=device) for side in grid]
        table = torch.zeros(*grid, 3, device=device)
        table[..., list(self.axes)] = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
        return table.reshape(-1, 3).expand(batch, -1, -1)


class Patchify1D(GridPatchify):
    """Tokenizer of sequences (B, C, T): consecutive samples, at positions (time, 0, 0)."""

    dimensions = ("length",)
    axes = (0,)


class Patchify2D(GridPatchify):
    """Tokenizer of pictures (B, C, H, W): square patches, row by row, at positions (0, row, column)."""

    dimensions = ("rows", "columns")
    axes = (1, 2)


class StackPatchify(GridPatchify):
    """Tokenizer of stacks of pictures (B, C, V, H, W): square patches of each, at positions (picture, row, column)."""

    dimensions = ("pictures", "rows", "columns")
    axes = (0, 1, 2)
    whole = 1


class IdentityAutoencoder(Autoencoder):
    """Autoencoder of pictures without weights: the latent is the picture."""

    class Config(Settings):
        """Channels of the pictures."""

        channels: int = Field(3, ge=1, description="channels of the pictures")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = config.channels
        self.downsample_factor = (1, 1)

    def encode(self, data: Tensor) -> Tensor:
        """Return the pictures (B, channels, H, W) unchanged."""
        check_shape(data, (None, self.channels, None, None), "a batch of pictures")
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """Return the latents (B, channels, H, W) unchanged."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return latent
