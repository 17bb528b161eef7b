"""Spectrogram -> sound by one inverse Fourier transform a frame, after a small convolutional network."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.convnext import ConvNeXtBlock
from lumina_audio.mel import overlap_add
from lumina_core.config import Config as Settings
from lumina_core.types import check_shape

MAX_MAGNITUDE = 1e2
"""Magnitudes are bounded by it, as published: the exponential of a wild start would not be a number."""


class Vocos(nn.Module):
    """ConvNeXt blocks at the frame rate, then magnitude and phase of each frame (Vocos, arXiv 2306.00814).

    No layer works at the rate of samples, so it is some hundred times cheaper than a network that doubles its way up.
    Its frames stand as those of `lumina_audio.mel.MelSpectrogram` do.
    """

    class Config(Settings):
        """Which spectrograms it reads, and the sizes of the network; the published one is 512 wide, 8 deep."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples a second")
        n_fft: int = Field(1024, ge=16, le=16384, description="samples of a window")
        hop_length: int = Field(256, ge=1, le=8192, description="samples from one window to the next")
        n_mels: int = Field(80, ge=1, le=512, description="bands of the spectrogram")
        hidden_size: int = Field(256, ge=8, description="width of the network")
        intermediate_size: int = Field(768, ge=8, description="width inside a block")
        num_layers: int = Field(6, ge=1, le=64, description="blocks")
        mel_mean: float = Field(-5.0, description="taken from the spectrogram before it is read")
        mel_std: float = Field(3.0, gt=0, description="what is left is divided by it")

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
        with torch.device("cpu"):  # a plain tensor: it follows from the settings, and is never rounded as weights are
            self.window = torch.hann_window(config.n_fft)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, bands, T), natural logarithms -> (B, 1, T * hop)."""
        check_shape(mel, (None, self.n_mels, None), "a batch of spectrograms")
        x = self.embed((mel - self.config.mel_mean) / self.config.mel_std).transpose(1, 2)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        magnitude, phase = self.head(self.last_norm(x)).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp_max(MAX_MAGNITUDE), phase)
        return overlap_add(spectrum, self.window.to(spectrum.device), self.config.hop_length)
