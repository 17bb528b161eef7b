"""No latent: the log-mel spectrogram itself, or its averages over time; for models that have no autoencoder trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.audio_io import limit_peak
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.protocol import Vocoder
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape

MAX_LOG_AMPLITUDE = 3.0
"""Natural logarithm of the loudest band that is voiced: a whole sine at full scale in a narrow band stays below it."""


class MelSpectrogramLatent(torch.nn.Module, Autoencoder):
    """(B, 1, S) <-> (B, bands, S / hop) of about zero mean and unit variance. Has no weights of its own."""

    class Config(Settings):
        """The spectrogram, how it is scaled, and the vocoder."""

        mel: MelConfig = Field(MelConfig(), description="how spectrograms are made")
        mel_mean: float = Field(-6.0, description="taken from a natural logarithm of a band")
        mel_std: float = Field(3.5, gt=0, description="what is left is divided by it")
        pool_size: int = Field(
            1, ge=1, le=256, description="frames averaged into one: the coarse look that a conditioner can foretell"
        )
        vocoder: ComponentSpec = Field(ComponentSpec(type="audio.griffin_lim"), description="spectrogram -> sound")

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        self.config, self.mel = config, MelSpectrogram(config.mel)
        self.vocoder: Any = vocoder
        self.channels, self.downsample_factor = config.mel.n_mels, (config.mel.hop_length * config.pool_size,)
        self.fixed_task_options = {"sample_rate": config.mel.sample_rate}
        if (vocoder.sample_rate, vocoder.n_mels, vocoder.hop_length) != (
            config.mel.sample_rate,
            config.mel.n_mels,
            config.mel.hop_length,
        ):
            raise ConfigError(
                f"{config.vocoder.type} reads spectrograms of rate {vocoder.sample_rate}, {vocoder.n_mels} bands, hop "
                f"{vocoder.hop_length}; these are of rate {config.mel.sample_rate}, {config.mel.n_mels} bands, hop {config.mel.hop_length}: "
                "give both the same"
            )

    def encode(self, data: Tensor) -> Tensor:
        """(B, 1, S) in [-1, 1] -> (B, bands, S / stride).

        Raises:
            ShapeError: S is no multiple of the stride, or shorter than half a window.
        """
        stride = self.downsample_factor[0]
        if data.shape[-1] % stride:
            raise ShapeError(
                f"a sound of {data.shape[-1]} samples cannot be cut in stretches of {stride}; "
                f"the next that fits: {-(-data.shape[-1] // stride) * stride}"
            )
        mel = F.avg_pool1d(self.mel(data), self.config.pool_size)
        return (mel / self.config.mel.log_scale - self.config.mel_mean) / self.config.mel_std

    def decode(self, latent: Tensor) -> Tensor:
        """(B, bands, T) -> (B, 1, T * stride) in [-1, 1]: what would be louder is softer as a whole.

        An averaged spectrum stands still for its while.
        """
        check_shape(latent, (None, self.channels, None), "a batch of spectrograms")
        latent = latent.repeat_interleave(self.config.pool_size, dim=-1)
        return limit_peak(
            self.vocoder((latent * self.config.mel_std + self.config.mel_mean).clamp_max(MAX_LOG_AMPLITUDE))
        )
