"""Waveform -> log-mel spectrogram: how strong each band of pitch is in each short moment."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from lumina_core.config import Config
from lumina_core.errors import ShapeError
from lumina_core.types import check_shape


class MelSettings(Config):
    """How a spectrogram is made; the defaults are the paper's (16 kHz, FFT 1024, hop 256, 80 bands)."""

    rate: int = Field(16000, ge=1000, le=192000, description="samples of the waveform a second")
    fft: int = Field(1024, ge=16, le=16384, description="samples of a window")
    hop: int = Field(256, ge=1, le=8192, description="samples from one window to the next")
    bands: int = Field(80, ge=1, le=512, description="bands of pitch")
    low: float = Field(0.0, ge=0, description="lower end of the lowest band, Hz")
    high: float = Field(8000.0, gt=0, description="upper end of the highest band, Hz")
    floor: float = Field(1e-5, gt=0, lt=1, description="magnitudes below it count as it")
    logarithm: Literal["natural", "decimal"] = Field(
        "natural", description="natural: as BigVGAN's front end; decimal: as Make-An-Audio's"
    )

    @model_validator(mode="after")
    def _ordered(self) -> MelSettings:
        if not self.low < self.high <= self.rate / 2:
            raise ValueError(
                f"bands from {self.low:g} to {self.high:g} Hz at {self.rate} samples a second; "
                f"wanted low < high, and high at most half the rate ({self.rate / 2:g})"
            )
        if self.hop > self.fft or (self.fft - self.hop) % 2:
            raise ValueError(f"fft {self.fft} and hop {self.hop} must differ by an even number, 0 or more")
        return self

    @property
    def silence(self) -> float:
        """What a band without any sound holds."""
        return math.log(self.floor) * self.scale

    @property
    def scale(self) -> float:
        """What a natural logarithm is multiplied by."""
        return 1.0 if self.logarithm == "natural" else 1 / math.log(10)


class Mel(nn.Module):
    """Slaney's mel bands of the magnitudes of a short-time Fourier transform, as a logarithm.

    A sound of S samples has exactly S / hop frames: it is mirrored by (fft - hop) / 2 at both ends and windows are not
    centred, as in the front ends of HiFi-GAN and BigVGAN (arXiv 2010.05646, 2206.04658).
    """

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        # plain tensors, not buffers: they follow from the settings, and stay in float32 whatever weights are in
        with torch.device("cpu"):
            bank = melscale_fbanks(
                settings.fft // 2 + 1, settings.low, settings.high, settings.bands, settings.rate, "slaney", "slaney"
            )
            self.bank, self.window = bank.T.contiguous(), torch.hann_window(settings.fft)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, S) in [-1, 1] -> (B, bands, S / hop).

        Raises:
            ShapeError: it has several channels, S is no multiple of the hop, or shorter than half a window.
        """
        # small differences of loud partials matter: bfloat16 would lose them
        with torch.autocast(waveform.device.type, enabled=False):
            bands = self.bank.float() @ magnitudes(
                self.padded(waveform.float()), self.window.float(), self.settings.hop
            )
            found: Tensor = bands.clamp_min(self.settings.floor).log() * self.settings.scale
            return found

    def padded(self, waveform: Tensor) -> Tensor:
        """(B, 1, S) -> (B, S + fft - hop), mirrored at both ends."""
        check_shape(waveform, (None, 1, None), "a batch of sounds")
        fft, hop = self.settings.fft, self.settings.hop
        length, edge = waveform.shape[-1], (fft - hop) // 2
        if length % hop or length <= edge:
            fits = max(-(-length // hop), edge // hop + 1) * hop
            raise ShapeError(
                f"a sound of {length} samples has no whole spectrogram: wanted a multiple of {hop}, "
                f"longer than {edge}; the next that fits: {fits}"
            )
        return F.pad(waveform, (edge, edge), mode="reflect")[:, 0]


def magnitudes(waveform: Tensor, window: Tensor, hop: int) -> Tensor:
    """(B, S) -> magnitudes (B, fft / 2 + 1, frames) of windows that are not centred."""
    spectrum = torch.stft(waveform, len(window), hop, window=window, center=False, return_complex=True)
    # the root has an infinite slope at nothing, which training would meet in silence
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-12).sqrt()
