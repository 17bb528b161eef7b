"""Published 1-D convolutional VAE of spectrograms, with its architecture and tensor names.

After `lumina_music/models/autoencoder1d.py` of Alpha-VLLM/Lumina-T2X, itself after Make-An-Audio 2 (arXiv 2305.18474).
Published weights depend on two details: residual blocks of the decoder have kernel size 3 whatever that of the encoder,
and downsampling pads one zero on the right only.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lumina_core.config import Config


class VAEConfig(Config):
    """Sizes; the defaults are the published ones."""

    latent_channels: int = Field(20, ge=1, le=1024, description="channels of the latent")
    z_channels: int = Field(20, ge=1, le=1024, description="channels of the encoder before the 1x1 convolution")
    ch: int = Field(384, ge=32, multiple_of=32, description="channels of the first level")
    ch_mult: tuple[int, ...] = Field(
        (1, 2, 4), min_length=1, description="channels of each level, as multiples of `ch`"
    )
    num_res_blocks: int = Field(2, ge=1, le=8, description="residual blocks per level; the decoder has one more")
    kernel_size: int = Field(5, ge=1, le=31, description="kernel size of the encoder's convolutions, odd")
    down_layers: tuple[int, ...] = Field((0,), description="levels of the encoder that end with downsampling by 2")
    attn_layers: tuple[int, ...] = Field((), description="levels with attention; the middle always has it")

    @model_validator(mode="after")
    def _check_levels(self) -> VAEConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {self.kernel_size}, expected an odd number")
        last = len(self.ch_mult) - 1
        invalid = [level for level in self.down_layers if not 0 <= level < last]
        if invalid:
            raise ValueError(f"down_layers: got level {invalid[0]}, expected a level below the last one, {last}")
        return self

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def downsample_factor(self) -> int:
        """Spectrogram frames per latent frame."""
        return 1 << len(self.down_layers)


class VAE(nn.Module):
    """Spectrogram (B, n_mels, T) <-> mean and log-variance of a latent (B, channels, T / stride)."""

    def __init__(self, config: VAEConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, n_mels)
        self.decoder = Decoder(config, n_mels)
        self.quant_conv = nn.Conv1d(2 * config.z_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv1d(config.latent_channels, config.z_channels, 1)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, n_mels, T) to mean and log-variance (B, channels, T / stride); the latter within [-30, 20]."""
        mean, log_variance = self.quant_conv(self.encoder(mel)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """Map (B, channels, T / stride) to (B, n_mels, T)."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latent))
        return decoded


class Encoder(nn.Module):
    """Levels of residual blocks, some with downsampling, and a middle block with attention."""

    def __init__(self, config: VAEConfig, n_mels: int) -> None:
        super().__init__()
        kernel_size, level_channels = config.kernel_size, config.level_channels
        self.conv_in = _conv(n_mels, level_channels[0], kernel_size)
        self.down = nn.ModuleList()
        for level, channels in enumerate(level_channels):
            in_channels = level_channels[max(level - 1, 0)]
            stage = Stage(in_channels, channels, config.num_res_blocks, kernel_size, level in config.attn_layers)
            if level in config.down_layers:
                stage.downsample = Downsample(channels)
            self.down.append(stage)
        self.mid = MidBlock(level_channels[-1], kernel_size)
        self.norm_out = _norm(level_channels[-1])
        self.conv_out = _conv(level_channels[-1], 2 * config.z_channels, kernel_size)

    def forward(self, mel: Tensor) -> Tensor:
        """Map (B, n_mels, T) to (B, 2 * z_channels, T / stride)."""
        x = self.conv_in(mel)
        for stage in self.down:
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """Levels of residual blocks in reverse order; level i + 1 upsamples if level i of the encoder downsamples."""

    def __init__(self, config: VAEConfig, n_mels: int) -> None:
        super().__init__()
        kernel_size, level_channels = config.kernel_size, config.level_channels
        self.conv_in = _conv(config.z_channels, level_channels[-1], kernel_size)
        self.mid = MidBlock(level_channels[-1], 3)
        stages = []
        for level in reversed(range(len(level_channels))):
            in_channels = level_channels[min(level + 1, len(level_channels) - 1)]
            stage = Stage(in_channels, level_channels[level], config.num_res_blocks + 1, 3, level in config.attn_layers)
            if level - 1 in config.down_layers:
                stage.upsample = Upsample(level_channels[level])
            stages.append(stage)
        self.up = nn.ModuleList(stages[::-1])
        self.norm_out = _norm(level_channels[0])
        self.conv_out = _conv(level_channels[0], n_mels, kernel_size)

    def forward(self, latent: Tensor) -> Tensor:
        """Map (B, z_channels, T / stride) to (B, n_mels, T)."""
        x = self.mid(self.conv_in(latent))
        for stage in reversed(self.up):
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Stage(nn.Module):
    """Level of residual blocks, each followed by attention if enabled, then down- or upsampling if present."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, kernel_size: int, use_attention: bool
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(out_channels if k else in_channels, out_channels, kernel_size) for k in range(num_blocks)
        )
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(num_blocks if use_attention else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, T) to (B, out_channels, T), T / 2 or 2 T."""
        for index, block in enumerate(self.block):
            x = block(x)
            x = self.attn[index](x) if len(self.attn) else x
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class MidBlock(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (ResnetBlock(channels, channels, kernel_size) for _ in range(2))
        self.attn_1 = AttnBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, T) to the same shape."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class ResnetBlock(nn.Module):
    """Two convolutions and a skip connection, a 1x1 convolution if the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(in_channels), _norm(out_channels)
        self.conv1 = _conv(in_channels, out_channels, kernel_size)
        self.conv2 = _conv(out_channels, out_channels, kernel_size)
        self.nin_shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, T) to (B, out_channels, T)."""
        residual = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = residual + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class AttnBlock(nn.Module):
    """Self-attention over time with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, T) to the same shape."""
        normed = self.norm(x)
        q, k, v = (proj(normed).transpose(1, 2) for proj in (self.q, self.k, self.v))
        out: Tensor = self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
        return x + out


class Downsample(nn.Module):
    """Convolution with stride 2; one zero is padded at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, T) to (B, channels, T / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbor upsampling by 2, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, T) to (B, channels, 2 T)."""
        out: Tensor = self.conv(x.repeat_interleave(2, dim=-1))
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
