"""Light autoencoder of spectrograms, which trains in minutes on a CPU. Our own."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lumina_audio.vocoders.vocos import ConvNeXtBlock
from lumina_core.config import Config


class LightVAEConfig(Config):
    """Sizes of the light autoencoder."""

    latent_channels: int = Field(32, ge=1, le=1024, description="channels of the latent")
    frames_per_latent: int = Field(2, ge=1, le=16, description="spectrogram frames per latent frame")
    hidden_size: int = Field(192, ge=8, le=4096, description="width of the blocks")
    num_layers: int = Field(3, ge=0, le=64, description="blocks of the encoder, and of the decoder")

    @property
    def downsample_factor(self) -> int:
        """Spectrogram frames per latent frame."""
        return self.frames_per_latent


class LightVAE(nn.Module):
    """Spectrogram (B, n_mels, T) <-> mean and log-variance of a latent (B, channels, T / frames_per_latent).

    Frames are concatenated to patches. A linear layer maps patches to the latent and another one back, as principal
    components would; ConvNeXt blocks in parallel add the nonlinear part. All layers work at the latent's frame rate.
    """

    def __init__(self, config: LightVAEConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config
        patch_dim, latent_dim = n_mels * config.frames_per_latent, config.latent_channels
        self.linear_in, self.linear_out = nn.Linear(patch_dim, latent_dim), nn.Linear(latent_dim, patch_dim)
        self.encoder = _make_convnext(patch_dim, 2 * latent_dim, config)
        self.decoder = _make_convnext(latent_dim, patch_dim, config)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, n_mels, T) to mean and log-variance (B, channels, T / frames); the latter within [-30, 20]."""
        patches = mel.unflatten(2, (-1, self.config.frames_per_latent)).permute(0, 2, 1, 3).flatten(2)
        residual, log_variance = self.encoder(patches).chunk(2, dim=-1)
        mean = self.linear_in(patches) + residual
        # the variance begins small: otherwise noise would hide the untrained latent
        return mean.transpose(1, 2), (log_variance.transpose(1, 2) - 6).clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """Map (B, channels, T / frames) to (B, n_mels, T)."""
        frames = latent.transpose(1, 2)
        patches: Tensor = self.linear_out(frames) + self.decoder(frames)
        mel: Tensor = patches.unflatten(2, (-1, self.config.frames_per_latent)).permute(0, 2, 1, 3).flatten(2)
        return mel


def _make_convnext(in_dim: int, out_dim: int, config: LightVAEConfig) -> nn.Sequential:
    blocks = [ConvNeXtBlock(config.hidden_size, 3 * config.hidden_size, 0.2) for _ in range(config.num_layers)]
    proj_out = nn.Linear(config.hidden_size, out_dim)
    nn.init.trunc_normal_(proj_out.weight, std=0.02)
    return nn.Sequential(nn.Linear(in_dim, config.hidden_size), *blocks, proj_out)
