"""No latent: the log-mel spectrogram itself, or its averages over time; for models that have no autoencoder trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.full_scale import within_full_scale
from lumina_audio.mel import Mel, MelSettings
from lumina_audio.vocoders.contract import Vocoder
from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.types import check_shape

LOUDEST = 3.0
"""Natural logarithm of the loudest band that is voiced: a whole sine at full scale in a narrow band stays below it."""


class Bands(torch.nn.Module):
    """(B, 1, S) <-> (B, bands, S / hop) of about zero mean and unit variance. Has no weights of its own."""

    class Config(Settings):
        """The spectrogram, how it is scaled, and the vocoder."""

        mel: MelSettings = Field(MelSettings(), description="how spectrograms are made")
        centre: float = Field(-6.0, description="taken from a natural logarithm of a band")
        spread: float = Field(3.5, gt=0, description="what is left is divided by it")
        frames: int = Field(
            1, ge=1, le=256, description="frames averaged into one: the coarse look that a conditioner can foretell"
        )
        vocoder: Use = Field(Use(use="audio.griffin_lim"), description="spectrogram -> sound")

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        self.config, self.mel = config, Mel(config.mel)
        self.vocoder: Any = vocoder
        self.channels, self.stride = config.mel.bands, (config.mel.hop * config.frames,)
        self.decides = {"rate": config.mel.rate}
        if (vocoder.rate, vocoder.bands, vocoder.hop) != (config.mel.rate, config.mel.bands, config.mel.hop):
            raise ConfigError(
                f"{config.vocoder.use} reads spectrograms of rate {vocoder.rate}, {vocoder.bands} bands, hop "
                f"{vocoder.hop}; these are of rate {config.mel.rate}, {config.mel.bands} bands, hop {config.mel.hop}: "
                "give both the same"
            )

    def encode(self, data: Tensor) -> Tensor:
        """(B, 1, S) in [-1, 1] -> (B, bands, S / stride).

        Raises:
            ShapeError: S is no multiple of the stride, or shorter than half a window.
        """
        stride = self.stride[0]
        if data.shape[-1] % stride:
            raise ShapeError(
                f"a sound of {data.shape[-1]} samples cannot be cut in stretches of {stride}; "
                f"the next that fits: {-(-data.shape[-1] // stride) * stride}"
            )
        mel = F.avg_pool1d(self.mel(data), self.config.frames)
        return (mel / self.config.mel.scale - self.config.centre) / self.config.spread

    def decode(self, latent: Tensor) -> Tensor:
        """(B, bands, T) -> (B, 1, T * stride) in [-1, 1]: what would be louder is softer as a whole.

        An averaged spectrum stands still for its while.
        """
        check_shape(latent, (None, self.channels, None), "a batch of spectrograms")
        latent = latent.repeat_interleave(self.config.frames, dim=-1)
        return within_full_scale(self.vocoder((latent * self.config.spread + self.config.centre).clamp_max(LOUDEST)))
