"""Vocos: magnitudes and phases of an STFT from ConvNeXt blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.mel import overlap_add
from lumina_core.config import Config as Settings
from lumina_core.protocols import Component
from lumina_core.types import check_shape

MAX_MAGNITUDE = 1e2
"""Upper bound of magnitudes, as published: the exponential of an untrained output can overflow."""


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two layers per frame (after arXiv 2201.03545)."""

    def __init__(self, dim: int, hidden_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        for layer in (self.dwconv, self.pwconv1, self.pwconv2):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        normed = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        out: Tensor = x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(normed)))
        return out


class Vocos(Component, nn.Module):
    """ConvNeXt blocks at the frame rate, then one inverse STFT (Vocos, arXiv 2306.00814).

    No layer works at the sample rate, so it is about a hundred times faster than a vocoder of transposed convolutions.
    Its frames are those of `lumina_audio.mel.MelSpectrogram`.
    """

    class Config(Settings):
        """Spectrogram, and sizes of the network; the published one has hidden_size 512 and 8 layers."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second")
        n_fft: int = Field(1024, ge=16, le=16384, description="samples of a window")
        hop_length: int = Field(256, ge=1, le=8192, description="samples between windows")
        n_mels: int = Field(80, ge=1, le=512, description="number of mel bands")
        hidden_size: int = Field(256, ge=8, description="width of the network")
        intermediate_size: int = Field(768, ge=8, description="width of the hidden layer of a block")
        num_layers: int = Field(6, ge=1, le=64, description="number of blocks")
        mel_mean: float = Field(-5.0, description="mean that is subtracted from the spectrogram")
        mel_std: float = Field(3.0, gt=0, description="standard deviation that the spectrogram is divided by")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.n_mels, self.hop_length = config.sample_rate, config.n_mels, config.hop_length
        self.embed = nn.Conv1d(config.n_mels, config.hidden_size, 7, padding=3)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.hidden_size, config.intermediate_size, 1 / config.num_layers)
            for _ in range(config.num_layers)
        )
        self.last_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.head = nn.Linear(config.hidden_size, config.n_fft + 2)
        for layer in (self.embed, self.head):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        with torch.device("cpu"):  # a plain tensor: computed from the config, and not rounded with the weights
            self.window = torch.hann_window(config.n_fft)

    def forward(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) to (B, 1, T * hop_length)."""
        check_shape(mel, (None, self.n_mels, None), "a batch of spectrograms")
        normalized = ((mel - self.config.mel_mean) / self.config.mel_std).to(self.embed.weight.dtype)
        x = self.embed(normalized).transpose(1, 2)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        magnitude, phase = self.head(self.last_norm(x)).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp_max(MAX_MAGNITUDE), phase)
        return overlap_add(spectrum, self.window.to(spectrum.device), self.config.hop_length)

    def no_muon(self) -> set[str]:
        """Return the matrix of the output layer, which Muon does not train."""
        return {"head.weight"}
