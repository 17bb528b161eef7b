"""Autoencoder without weights: recognition reads the pixels themselves."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape


class IdentityAutoencoder(Autoencoder):
    """Autoencoder whose latent is the image."""

    class Config(Settings):
        """Channels of the image."""

        channels: int = Field(3, ge=1, description="channels of the images")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = config.channels
        self.downsample_factor = (1, 1)

    def encode(self, data: Tensor) -> Tensor:
        """Return the images (B, channels, H, W) unchanged."""
        check_shape(data, (None, self.channels, None, None), "a batch of images")
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """Return the latents (B, channels, H, W) unchanged."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return latent
