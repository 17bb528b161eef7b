"""A light autoencoder of spectrograms that trains in minutes on a CPU. Our own proposal."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lumina_audio.convnext import ConvNeXt
from lumina_core.config import Config


class LightSettings(Config):
    """Sizes of the light autoencoder."""

    channels: int = Field(32, ge=1, le=1024, description="channels of the latent")
    frames: int = Field(2, ge=1, le=16, description="frames of the spectrogram that a frame of the latent stands for")
    width: int = Field(192, ge=8, le=4096, description="width of the blocks")
    depth: int = Field(3, ge=0, le=64, description="blocks on either side")

    @property
    def stride(self) -> int:
        """Frames of the spectrogram a frame of the latent stands for."""
        return self.frames


class LightVae(nn.Module):
    """Spectrogram (B, bands, T) <-> mean and log-variance of a latent (B, channels, T / frames).

    A few frames are laid side by side. A linear map takes them to the latent and another one back, which alone would
    find the principal components; ConvNeXt blocks beside them add what is not linear. All works at the latent's rate.
    """

    def __init__(self, settings: LightSettings, bands: int) -> None:
        super().__init__()
        self.settings = settings
        patch = bands * settings.frames
        self.straight_in, self.straight_out = (
            nn.Linear(patch, settings.channels),
            nn.Linear(settings.channels, patch),
        )
        self.encoder = _road(patch, 2 * settings.channels, settings)
        self.decoder = _road(settings.channels, patch, settings)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) -> mean and log-variance, each (B, channels, T / frames); the latter within [-30, 20]."""
        cut = mel.unflatten(2, (-1, self.settings.frames)).permute(0, 2, 1, 3).flatten(2)
        added, log_variance = self.encoder(cut).chunk(2, dim=-1)
        mean = self.straight_in(cut) + added
        # small to begin with: what is drawn must not hide what is encoded
        return mean.transpose(1, 2), (log_variance.transpose(1, 2) - 6).clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, T / frames) -> (B, bands, T)."""
        moments = latent.transpose(1, 2)
        cut: Tensor = self.straight_out(moments) + self.decoder(moments)
        joined: Tensor = cut.unflatten(2, (-1, self.settings.frames)).permute(0, 2, 1, 3).flatten(2)
        return joined


def _road(before: int, after: int, settings: LightSettings) -> nn.Sequential:
    blocks = [ConvNeXt(settings.width, 3 * settings.width, 0.2) for _ in range(settings.depth)]
    last = nn.Linear(settings.width, after)
    nn.init.trunc_normal_(last.weight, std=0.02)
    return nn.Sequential(nn.Linear(before, settings.width), *blocks, last)
