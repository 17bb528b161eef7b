"""Autoencoder without weights: the latent is the log-mel spectrogram, or its averages over time."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.audio_io import limit_peak
from lumina_audio.autoencoders.mel_autoencoder import check_length
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.protocol import Vocoder, check_vocoder_matches
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape

MAX_LOG_AMPLITUDE = 3.0
"""Largest natural logarithm of a decoded band; a full-scale sine in a narrow band is below it."""


class MelSpectrogramLatent(nn.Module, Autoencoder):
    """Waveform (B, 1, S) <-> normalized log-mel spectrogram (B, n_mels, S / (hop * pool_size)). It has no weights."""

    class Config(Settings):
        """Spectrogram, its normalization, and vocoder."""

        mel: MelConfig = Field(MelConfig(), description="spectrogram")
        mel_mean: float = Field(-6.0, description="mean that is subtracted from natural logarithms")
        mel_std: float = Field(3.5, gt=0, description="standard deviation that they are divided by")
        pool_size: int = Field(
            1, ge=1, le=256, description="frames averaged into one; a coarse latent is a target of text encoders"
        )
        vocoder: ComponentSpec = Field(ComponentSpec(type="audio.griffin_lim"), description="spectrogram -> waveform")

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        check_vocoder_matches(vocoder, config.mel, config.vocoder.type)
        self.config, self.mel = config, MelSpectrogram(config.mel)
        self.vocoder: Any = vocoder
        self.channels, self.downsample_factor = config.mel.n_mels, (config.mel.hop_length * config.pool_size,)
        self.fixed_task_options = {"sample_rate": config.mel.sample_rate}

    def encode(self, data: Tensor) -> Tensor:
        """Map (B, 1, S) in [-1, 1] to (B, n_mels, S / downsample_factor).

        Raises:
            ShapeError: S is no multiple of the downsample factor, or too short for a window.
        """
        check_length(data, self.downsample_factor[0])
        mel = F.avg_pool1d(self.mel(data), self.config.pool_size)
        return (mel / self.config.mel.log_scale - self.config.mel_mean) / self.config.mel_std

    def decode(self, latent: Tensor) -> Tensor:
        """Map (B, n_mels, T) to (B, 1, T * downsample_factor) in [-1, 1]; averaged frames are repeated."""
        check_shape(latent, (None, self.channels, None), "a batch of spectrograms")
        latent = latent.repeat_interleave(self.config.pool_size, dim=-1)
        mel = (latent * self.config.mel_std + self.config.mel_mean).clamp_max(MAX_LOG_AMPLITUDE)
        return limit_peak(self.vocoder(mel))
