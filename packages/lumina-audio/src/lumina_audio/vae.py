"""The 1-D convolutional autoencoder of spectrograms, by the published architecture and its tensor names.

Formulas: `lumina_music/models/autoencoder1d.py` of Alpha-VLLM/Lumina-T2X, itself after Make-An-Audio 2 (arXiv
2305.18474). Two things of the published code are kept because weights depend on them: the decoder's residual blocks
have kernels of 3 whatever the encoder's, and halving pads one zero on the right only.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lumina_audio.vae_settings import VaeSettings


class Vae(nn.Module):
    """Spectrogram (B, bands, T) <-> mean and log-variance of a latent (B, channels, T / stride)."""

    def __init__(self, settings: VaeSettings, bands: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings, bands)
        self.decoder = Decoder(settings, bands)
        self.quant_conv = nn.Conv1d(2 * settings.inner, 2 * settings.channels, 1)
        self.post_quant_conv = nn.Conv1d(settings.channels, settings.inner, 1)

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

    def __init__(self, settings: VaeSettings, bands: int) -> None:
        super().__init__()
        kernel, widths = settings.kernel, settings.widths
        self.conv_in = _conv(bands, widths[0], kernel)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            stage = Stage(before, width, settings.blocks, kernel, level in settings.attended)
            if level in settings.halved:
                stage.downsample = Halving(width)
            self.down.append(stage)
        self.mid = Middle(widths[-1], kernel)
        self.norm_out = _norm(widths[-1])
        self.conv_out = _conv(widths[-1], 2 * settings.inner, kernel)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, bands, T) -> (B, 2 * inner, T / stride)."""
        x = self.conv_in(mel)
        for stage in self.down:
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """The way back; what level i halved is doubled after level i + 1."""

    def __init__(self, settings: VaeSettings, bands: int) -> None:
        super().__init__()
        kernel, widths = settings.kernel, settings.widths
        self.conv_in = _conv(settings.inner, widths[-1], kernel)
        self.mid = Middle(widths[-1], 3)
        stages = []
        for level in reversed(range(len(widths))):
            before = widths[min(level + 1, len(widths) - 1)]
            stage = Stage(before, widths[level], settings.blocks + 1, 3, level in settings.attended)
            if level - 1 in settings.halved:
                stage.upsample = Doubling(widths[level])
            stages.append(stage)
        self.up = nn.ModuleList(stages[::-1])
        self.norm_out = _norm(widths[0])
        self.conv_out = _conv(widths[0], bands, kernel)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, inner, T / stride) -> (B, bands, T)."""
        x = self.mid(self.conv_in(latent))
        for stage in reversed(self.up):
            x = stage(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Stage(nn.Module):
    """Residual blocks of one width, each with attention where asked for, then a halving or doubling of time or none."""

    def __init__(self, before: int, width: int, blocks: int, kernel: int, attended: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(width if k else before, width, kernel) for k in range(blocks))
        self.attn = nn.ModuleList(Attention(width) for _ in range(blocks if attended else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T) -> (B, width, T, or its half or double)."""
        for place, block in enumerate(self.block):
            x = block(x)
            x = self.attn[place](x) if len(self.attn) else x
        for change in (self.downsample, self.upsample):
            x = x if change is None else change(x)
        return x


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (Residual(width, width, kernel) for _ in range(2))
        self.attn_1 = Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> the same."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Residual(nn.Module):
    """Two convolutions beside a straight road, which is a convolution of one sample where the width changes."""

    def __init__(self, before: int, width: int, kernel: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(before), _norm(width)
        self.conv1, self.conv2 = _conv(before, width, kernel), _conv(width, width, kernel)
        self.nin_shortcut = nn.Conv1d(before, width, 1) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T) -> (B, width, T)."""
        added = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = added + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class Attention(nn.Module):
    """One head over time, as wide as the layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> the same."""
        seen = self.norm(x)
        q, k, v = (part(seen).transpose(1, 2) for part in (self.q, self.k, self.v))
        out: Tensor = self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
        return x + out


class Halving(nn.Module):
    """Every second sample of a convolution; one zero is put behind the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1)))
        return out


class Doubling(nn.Module):
    """Every sample twice, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, 2 T)."""
        out: Tensor = self.conv(x.repeat_interleave(2, dim=-1))
        return out


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def _conv(before: int, after: int, kernel: int) -> nn.Conv1d:
    return nn.Conv1d(before, after, kernel, padding=kernel // 2)
