"""A light autoencoder of spectrograms that trains in minutes on a CPU. Our own proposal."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lumina_audio.convnext import ConvNeXtBlock
from lumina_core.config import Config


class LightVAEConfig(Config):
    """Sizes of the light autoencoder."""

    latent_channels: int = Field(32, ge=1, le=1024, description="channels of the latent")
    frames_per_latent: int = Field(
        2, ge=1, le=16, description="frames of the spectrogram that a frame of the latent stands for"
    )
    hidden_size: int = Field(192, ge=8, le=4096, description="width of the blocks")
    num_layers: int = Field(3, ge=0, le=64, description="blocks on either side")

    @property
    def downsample_factor(self) -> int:
        """Frames of the spectrogram a frame of the latent stands for."""
        return self.frames_per_latent


class LightVAE(nn.Module):
    """Spectrogram (B, bands, T) <-> mean and log-variance of a latent (B, channels, T / frames).

    A few frames are laid side by side. A linear map takes them to the latent and another one back, which alone would
    find the principal components; ConvNeXt blocks beside them add what is not linear. All works at the latent's rate.
    """

    def __init__(self, config: LightVAEConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config
        patch_dim = n_mels * config.frames_per_latent
        self.linear_in, self.linear_out = (
            nn.Linear(patch_dim, config.latent_channels),
            nn.Linear(config.latent_channels, patch_dim),
        )
        self.encoder = _make_convnext(patch_dim, 2 * config.latent_channels, config)
        self.decoder = _make_convnext(config.latent_channels, patch_dim, config)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) -> mean and log-variance, each (B, channels, T / frames); the latter within [-30, 20]."""
        patches = mel.unflatten(2, (-1, self.config.frames_per_latent)).permute(0, 2, 1, 3).flatten(2)
        residual, log_variance = self.encoder(patches).chunk(2, dim=-1)
        mean = self.linear_in(patches) + residual
        # small to begin with: what is drawn must not hide what is encoded
        return mean.transpose(1, 2), (log_variance.transpose(1, 2) - 6).clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, T / frames) -> (B, bands, T)."""
        frames = latent.transpose(1, 2)
        patches: Tensor = self.linear_out(frames) + self.decoder(frames)
        mel: Tensor = patches.unflatten(2, (-1, self.config.frames_per_latent)).permute(0, 2, 1, 3).flatten(2)
        return mel


def _make_convnext(in_dim: int, out_dim: int, config: LightVAEConfig) -> nn.Sequential:
    blocks = [ConvNeXtBlock(config.hidden_size, 3 * config.hidden_size, 0.2) for _ in range(config.num_layers)]
    proj_out = nn.Linear(config.hidden_size, out_dim)
    nn.init.trunc_normal_(proj_out.weight, std=0.02)
    return nn.Sequential(nn.Linear(in_dim, config.hidden_size), *blocks, proj_out)
