"""Autoencoder of views: one of pictures, view by view."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape


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
