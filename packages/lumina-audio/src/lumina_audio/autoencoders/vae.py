"""The 1-D convolutional autoencoder of spectrograms, by the published architecture and its tensor names.

Formulas: `lumina_music/models/autoencoder1d.py` of Alpha-VLLM/Lumina-T2X, itself after Make-An-Audio 2 (arXiv
2305.18474). Two things of the published code are kept because weights depend on them: the decoder's residual blocks
have kernels of 3 whatever the encoder's, and halving pads one zero on the right only.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lumina_core.config import Config


class VAEConfig(Config):
    """Sizes; the defaults are the published ones (384 wide, 80 bands to 20 channels, one halving of time)."""

    latent_channels: int = Field(20, ge=1, le=1024, description="channels of the latent")
    z_channels: int = Field(20, ge=1, le=1024, description="channels before the last convolution of one sample")
    ch: int = Field(384, ge=32, multiple_of=32, description="channels of the outermost level")
    ch_mult: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="of the width, level by level")
    num_res_blocks: int = Field(2, ge=1, le=8, description="residual blocks of a level; the decoder has one more")
    kernel_size: int = Field(5, ge=1, le=31, description="samples that a convolution of the encoder sees; odd")
    down_layers: tuple[int, ...] = Field((0,), description="levels of the encoder after which time is halved")
    attn_layers: tuple[int, ...] = Field((), description="levels with attention, besides the middle")

    @model_validator(mode="after")
    def _check_levels(self) -> VAEConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"a kernel is odd, so that it has a middle; got {self.kernel_size}")
        last = len(self.ch_mult) - 1
        invalid = [level for level in self.down_layers if not 0 <= level < last]
        if invalid:
            raise ValueError(f"time is halved between levels, so after one of 0..{last - 1}; got {invalid[0]}")
        return self

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels level by level."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def downsample_factor(self) -> int:
        """Frames of the spectrogram a frame of the latent stands for."""
        return 1 << len(self.down_layers)


class VAE(nn.Module):
    """Spectrogram (B, bands, T) <-> mean and log-variance of a latent (B, channels, T / stride)."""

    def __init__(self, config: VAEConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, n_mels)
        self.decoder = Decoder(config, n_mels)
        self.quant_conv = nn.Conv1d(2 * config.z_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv1d(config.latent_channels, config.z_channels, 1)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) -> mean and log-variance, each (B, channels, T / stride); the latter within [-30, 20]."""
        mean, log_variance = self.quant_conv(self.encoder(mel)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, T / stride) -> (B, bands, T)."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latent))
        return decoded


class Encoder(nn.Module):
    """Residual blocks at each width, halvings of time between some of them, attention in the middle."""

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
        """(B, bands, T) -> (B, 2 * inner, T / stride)."""
        x = self.conv_in(mel)
        for stage in self.down:
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """The way back; what level i halved is doubled after level i + 1."""

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
        """(B, inner, T / stride) -> (B, bands, T)."""
        x = self.mid(self.conv_in(latent))
        for stage in reversed(self.up):
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Stage(nn.Module):
    """Residual blocks of one width, each with attention where asked for, then a halving or doubling of time or none."""

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
        """(B, before, T) -> (B, width, T, or its half or double)."""
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
        """(B, width, T) -> the same."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class ResnetBlock(nn.Module):
    """Two convolutions beside a straight road, which is a convolution of one sample where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(in_channels), _norm(out_channels)
        self.conv1, self.conv2 = (
            _conv(in_channels, out_channels, kernel_size),
            _conv(out_channels, out_channels, kernel_size),
        )
        self.nin_shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T) -> (B, width, T)."""
        residual = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = residual + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class AttnBlock(nn.Module):
    """One head over time, as wide as the layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> the same."""
        normed = self.norm(x)
        q, k, v = (proj(normed).transpose(1, 2) for proj in (self.q, self.k, self.v))
        out: Tensor = self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
        return x + out


class Downsample(nn.Module):
    """Every second sample of a convolution; one zero is put behind the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1)))
        return out


class Upsample(nn.Module):
    """Every sample twice, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, 2 T)."""
        out: Tensor = self.conv(x.repeat_interleave(2, dim=-1))
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
