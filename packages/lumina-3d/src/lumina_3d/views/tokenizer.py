"""Tokens of views: square patches at (view, row, column); and an autoencoder that works view by view."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder, Tokenizer
from lumina_core.types import Size, Tokens, check_shape


class ViewPatchify(Tokenizer):
    """Tokenizer that cuts every view into square patches; it has no weights."""

    class Config(Settings):
        """Size of a patch."""

        patch_size: int = Field(8, ge=1, le=64, description="side of a patch in latent pixels")
        channels: int = Field(4, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config, self.patch, self.channels = config, config.patch_size, config.channels
        self.width = config.channels * config.patch_size**2
        self.patch_size = (1, config.patch_size, config.patch_size)

    def patchify(self, latent: Tensor) -> Tokens:
        """Cut a latent into tokens.

        Args:
            latent: (B, C, V, H, W).

        Returns:
            Tokens with values (B, V * rows * columns, C * patch_size ** 2), each in the order channel, row, column, and
            positions (view, row, column), one table shared by the batch.

        Raises:
            ShapeError: the latent has other channels, or a side is not a multiple of the patch size.
        """
        check_shape(latent, (None, self.channels, None, None, None), "the latent of views")
        batch, _, views, height, width = latent.shape
        rows, columns = self._grid_shape((views, height, width))
        patches = latent.reshape(batch, self.channels, views, rows, self.patch, columns, self.patch)
        values = patches.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, views * rows * columns, self.width)
        positions = self._positions(batch, views, rows, columns, latent.device)
        return Tokens(values, positions, ((views, height, width),) * batch)

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Join tokens to a latent (B, C, V, H, W): the exact inverse of `patchify`.

        Raises:
            ShapeError: the items have different sizes, or number or width of the tokens do not match the size.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"tokens.sizes: got {len(set(tokens.sizes))} sizes, expected one. "
                "Unpatchify the items of Tokens.items() one by one."
            )
        views, height, width = tokens.sizes[0]
        rows, columns = self._grid_shape(tokens.sizes[0])
        length = views * rows * columns
        check_shape(tokens.values, (len(tokens.sizes), length, self.width), f"tokens of views {tokens.sizes[0]}")
        patches = tokens.values.reshape(-1, views, rows, columns, self.channels, self.patch, self.patch)
        return patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(-1, self.channels, views, height, width)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Return tokens of zeros with the positions of a latent of `size` (V, H, W)."""
        rows, columns = self._grid_shape(size)
        values = torch.zeros(batch, size[0] * rows * columns, self.width)
        return Tokens(values, self._positions(batch, size[0], rows, columns, values.device), (size,) * batch)

    def _grid_shape(self, size: Size) -> tuple[int, int]:
        if len(size) != 3 or min(size) < 1:
            raise ShapeError(f"latent size: got {size}, expected (views, rows, columns), each at least 1.")
        _, height, width = size
        if height % self.patch or width % self.patch:
            lower = max(height // self.patch, 1) * self.patch
            raise ShapeError(
                f"latent size: got {height}x{width} (rows x columns), expected multiples of the patch size "
                f"{self.patch}. Nearest: {lower}."
            )
        return height // self.patch, width // self.patch

    @staticmethod
    def _positions(batch: int, views: int, rows: int, columns: int, device: torch.device) -> Tensor:
        axes = (torch.arange(n, dtype=torch.float32, device=device) for n in (views, rows, columns))
        table = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(views * rows * columns, 3)
        return table.expand(batch, -1, -1)


class PerViewAutoencoder(nn.Module, Autoencoder):
    """Autoencoder of pictures, applied to each view; without one, the latent is the views themselves."""

    class Config(Settings):
        """The autoencoder of pictures."""

        channels: int = Field(4, ge=1, description="channels of the views if there is no autoencoder: 4 is RGBA")
        autoencoder: ComponentSpec | None = Field(None, description="of pictures, for example {type: image.kl}")

    def __init__(self, config: Config, autoencoder: Autoencoder | None = None) -> None:
        super().__init__()
        self.config, self.autoencoder = config, autoencoder
        self.channels = config.channels if autoencoder is None else autoencoder.channels
        factor = (1, 1) if autoencoder is None else autoencoder.downsample_factor
        self.downsample_factor = (1, *factor)

    def encode(self, data: Tensor) -> Tensor:
        """Encode views (B, channels, V, H, W) in [-1, 1] to (B, C, V, h, w)."""
        if self.autoencoder is None:
            check_shape(data, (None, self.channels, None, None, None), "a batch of views")
            return data
        return self._per_view(data, self.autoencoder.encode)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode (B, C, V, h, w) to views (B, channels, V, H, W), not clamped."""
        check_shape(latent, (None, self.channels, None, None, None), "a batch of latents of views")
        return latent if self.autoencoder is None else self._per_view(latent, self.autoencoder.decode)

    def check_available(self) -> None:
        """Raise CheckpointError if pretrained weights are missing."""
        if self.autoencoder is not None:
            self.autoencoder.check_available()

    @staticmethod
    def _per_view(data: Tensor, function: object) -> Tensor:
        assert callable(function)
        batch = data.shape[0]
        flat: Tensor = function(data.transpose(1, 2).flatten(0, 1))
        views: Tensor = flat.unflatten(0, (batch, -1)).transpose(1, 2)
        return views


def composite(rgba: Tensor, background: float = 1.0) -> Tensor:
    """Return (3, ...) in [-1, 1] of views (4, ...) in [-1, 1] over a grey background, -1 black to 1 white.

    The colours of generated RGBA views are those over white, as in training.
    """
    rgb, alpha = rgba[:3], (rgba[3:4] + 1) / 2
    shown: Tensor = rgb + (1 - alpha) * (background - 1.0)
    return shown
