"""Pictures to thumbnails by averaging: the coarse look that a conditioner can be taught to foretell."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder


class ThumbnailAutoencoder(Autoencoder):
    """An autoencoder by its shape only: it averages squares of pixels on the way in and repeats them on the way out."""

    class Config(Settings):
        """How coarse."""

        downsample_factor: int = Field(4, ge=1, le=64, description="side of the squares that become one pixel")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = 3
        self.downsample_factor = (config.downsample_factor, config.downsample_factor)

    def encode(self, data: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 3, H/shrink, W/shrink).

        Raises:
            ShapeError: a side is no multiple of `shrink`.
        """
        if data.shape[-2] % self.config.downsample_factor or data.shape[-1] % self.config.downsample_factor:
            raise ShapeError(
                f"a picture of {tuple(data.shape[-2:])} cannot be averaged in squares of {self.config.downsample_factor}"
            )
        return F.avg_pool2d(data, self.config.downsample_factor)

    def decode(self, latent: Tensor) -> Tensor:
        """The squares again, each in one colour."""
        return F.interpolate(latent, scale_factor=self.config.downsample_factor, mode="nearest")
