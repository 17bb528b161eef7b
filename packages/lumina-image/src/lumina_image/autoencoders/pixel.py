"""Autoencoder without weights: thumbnails of the pixels."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder


class ThumbnailAutoencoder(Autoencoder):
    """Autoencoder whose latent is a thumbnail: blocks of pixels are averaged, and repeated by `decode`."""

    class Config(Settings):
        """Size of the blocks."""

        downsample_factor: int = Field(4, ge=1, le=64, description="side of the blocks in pixels")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = 3
        self.downsample_factor = (config.downsample_factor, config.downsample_factor)

    def encode(self, data: Tensor) -> Tensor:
        """Average blocks of (B, 3, H, W) to (B, 3, H / downsample_factor, W / downsample_factor).

        Raises:
            ShapeError: a side is not a multiple of the downsampling factor.
        """
        factor = self.config.downsample_factor
        if data.shape[-2] % factor or data.shape[-1] % factor:
            raise ShapeError(f"image size: got {tuple(data.shape[-2:])}, expected multiples of {factor}.")
        return F.avg_pool2d(data, factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Repeat each pixel of (B, 3, h, w) to a block."""
        return F.interpolate(latent, scale_factor=self.config.downsample_factor, mode="nearest")
