"""Tokenizer of images: square patches, row by row, at positions (0, row, column)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Tokenizer
from lumina_core.types import Size, Tokens, check_shape


class Patchify(Tokenizer):
    """Tokenizer that splits a latent into square patches; it has no weights."""

    class Config(Settings):
        """Size of a patch."""

        patch_size: int = Field(2, ge=1, le=64, description="side of a patch in latent pixels")
        channels: int = Field(4, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.patch, self.channels = config.patch_size, config.channels
        self.width = config.channels * config.patch_size**2
        self.patch_size = (config.patch_size, config.patch_size)

    def patchify(self, latent: Tensor) -> Tokens:
        """Split a latent into tokens.

        Args:
            latent: (B, C, H, W).

        Returns:
            Tokens with values (B, N, C * patch_size ** 2), each in the order channel, row, column, and positions
            (0, row, column) in token units, float32, one table shared by the batch.

        Raises:
            ShapeError: the latent has other channels, or a side is not a multiple of the patch size.
        """
        check_shape(latent, (None, self.channels, None, None), "the latent of an image")
        batch, _, height, width = latent.shape
        rows, columns = self._grid_shape((height, width))
        patches = latent.reshape(batch, self.channels, rows, self.patch, columns, self.patch)
        values = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, self.width)
        return Tokens(values, self._positions(batch, rows, columns, latent.device), ((height, width),) * batch)

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Join tokens to a latent (B, C, H, W): the exact inverse of `patchify`.

        Raises:
            ShapeError: the items have different sizes, or number or width of the tokens do not match the size.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"tokens.sizes: got {len(set(tokens.sizes))} sizes, expected one. "
                "Unpatchify the items of Tokens.items() one by one."
            )
        latent_size = tokens.sizes[0]
        rows, columns = self._grid_shape(latent_size)
        check_shape(tokens.values, (len(tokens.sizes), rows * columns, self.width), f"tokens of a latent {latent_size}")
        patches = tokens.values.reshape(-1, rows, columns, self.channels, self.patch, self.patch)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, *latent_size)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Return tokens of zeros with the positions of a latent of `size` (H, W)."""
        rows, columns = self._grid_shape(size)
        values = torch.zeros(batch, rows * columns, self.width)
        return Tokens(values, self._positions(batch, rows, columns, values.device), (size,) * batch)

    def _grid_shape(self, latent_size: Size) -> tuple[int, int]:
        if len(latent_size) != 2 or min(latent_size) < 1:
            raise ShapeError(f"latent size: got {latent_size}, expected (rows, columns), each at least 1.")
        height, width = latent_size
        if height % self.patch or width % self.patch:
            raise ShapeError(self._misfit_message(height, width))
        return height // self.patch, width // self.patch

    def _misfit_message(self, height: int, width: int) -> str:
        smaller = [max(side // self.patch, 1) * self.patch for side in (height, width)]
        larger = [-(-side // self.patch) * self.patch for side in (height, width)]
        candidates = dict.fromkeys(f"{high}x{wide}" for high, wide in (smaller, larger))
        return (
            f"latent size: got {height}x{width} (rows x columns), expected multiples of the patch size {self.patch}. "
            f"Nearest: {' or '.join(candidates)}."
        )

    def _positions(self, batch: int, rows: int, columns: int, device: torch.device) -> Tensor:
        row = torch.arange(rows, dtype=torch.float32, device=device)[:, None].expand(rows, columns)
        column = torch.arange(columns, dtype=torch.float32, device=device).expand(rows, columns)
        table = torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(rows * columns, 3)
        return table.expand(batch, -1, -1)
