"""Coordinates <-> latent: a scale, so that the latent has unit variance."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape


class ScaledCoordinates(nn.Module, Autoencoder):
    """Autoencoder of point clouds (B, 3, N) in [-1, 1]: the latent is the coordinates times a constant."""

    class Config(Settings):
        """Scale of the latent."""

        scaling_factor: float = Field(
            2.2, gt=0, allow_inf_nan=False, description="latent per coordinate: 1 over the deviation of coordinates"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.channels, self.downsample_factor = config, 3, (1,)

    def encode(self, data: Tensor) -> Tensor:
        """Multiply coordinates (B, 3, N) by the scale."""
        check_shape(data, (None, 3, None), "a point cloud")
        return data * self.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """Divide a latent (B, 3, N) by the scale."""
        return latent / self.config.scaling_factor
