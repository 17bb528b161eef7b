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


class MelConfig(Config):
    """How a spectrogram is made; the defaults are the paper's (16 kHz, FFT 1024, hop 256, 80 bands)."""

    sample_rate: int = Field(16000, ge=1000, le=192000, description="samples of the waveform a second")
    n_fft: int = Field(1024, ge=16, le=16384, description="samples of a window")
    hop_length: int = Field(256, ge=1, le=8192, description="samples from one window to the next")
    n_mels: int = Field(80, ge=1, le=512, description="bands of pitch")
    f_min: float = Field(0.0, ge=0, description="lower end of the lowest band, Hz")
    f_max: float = Field(8000.0, gt=0, description="upper end of the highest band, Hz")
    min_amplitude: float = Field(1e-5, gt=0, lt=1, description="magnitudes below it count as it")
    log_base: Literal["natural", "decimal"] = Field(
        "natural", description="natural: as BigVGAN's front end; decimal: as Make-An-Audio's"
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> MelConfig:
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"bands from {self.f_min:g} to {self.f_max:g} Hz at {self.sample_rate} samples a second; "
                f"wanted low < high, and high at most half the rate ({self.sample_rate / 2:g})"
            )
        if self.hop_length > self.n_fft or (self.n_fft - self.hop_length) % 2:
            raise ValueError(f"fft {self.n_fft} and hop {self.hop_length} must differ by an even number, 0 or more")
        return self

    @property
    def min_value(self) -> float:
        """What a band without any sound holds."""
        return math.log(self.min_amplitude) * self.log_scale

    @property
    def log_scale(self) -> float:
        """What a natural logarithm is multiplied by."""
        return 1.0 if self.log_base == "natural" else 1 / math.log(10)


class MelSpectrogram(nn.Module):
    """Slaney's mel bands of the magnitudes of a short-time Fourier transform, as a logarithm.

    A sound of S samples has exactly S / hop frames: it is mirrored by (fft - hop) / 2 at both ends and windows are not
    centred, as in the front ends of HiFi-GAN and BigVGAN (arXiv 2010.05646, 2206.04658).
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        # plain tensors, not buffers: they follow from the settings, and stay in float32 whatever weights are in
        with torch.device("cpu"):
            filterbank = melscale_fbanks(
                config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, config.sample_rate, "slaney", "slaney"
            )
            self.filterbank, self.window = filterbank.T.contiguous(), torch.hann_window(config.n_fft)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, S) in [-1, 1] -> (B, bands, S / hop).

        Raises:
            ShapeError: it has several channels, S is no multiple of the hop, or shorter than half a window.
        """
        # small differences of loud partials matter: bfloat16 would lose them
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.filterbank.float() @ stft_magnitude(
                self.pad(waveform.float()), self.window.float(), self.config.hop_length
            )
            log_mel: Tensor = mel.clamp_min(self.config.min_amplitude).log() * self.config.log_scale
            return log_mel

    def pad(self, waveform: Tensor) -> Tensor:
        """(B, 1, S) -> (B, S + fft - hop), mirrored at both ends."""
        check_shape(waveform, (None, 1, None), "a batch of sounds")
        n_fft, hop_length = self.config.n_fft, self.config.hop_length
        length, padding = waveform.shape[-1], (n_fft - hop_length) // 2
        if length % hop_length or length <= padding:
            next_length = max(-(-length // hop_length), padding // hop_length + 1) * hop_length
            raise ShapeError(
                f"a sound of {length} samples has no whole spectrogram: wanted a multiple of {hop_length}, "
                f"longer than {padding}; the next that fits: {next_length}"
            )
        return F.pad(waveform, (padding, padding), mode="reflect")[:, 0]


def stft_magnitude(waveform: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """(B, S) -> magnitudes (B, fft / 2 + 1, frames) of windows that are not centred."""
    spectrum = torch.stft(waveform, len(window), hop_length, window=window, center=False, return_complex=True)
    # the root has an infinite slope at nothing, which training would meet in silence
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-12).sqrt()


def overlap_add(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """(B, T, fft / 2 + 1) complex -> (B, 1, T * hop): windows laid over one another, divided by what they add up to.

    Args:
        window: (fft,); a frame a hop after the one before, (fft - hop) / 2 cut off at both ends.
    """
    n_fft, count = len(window), spectrum.shape[1]
    with torch.autocast(spectrum.device.type, enabled=False):
        frames = torch.fft.irfft(spectrum, n_fft) * window
        weight = window.square().expand(1, count, n_fft)
        trim = (n_fft - hop_length) // 2
        summed, window_sum = (_fold_frames(part, hop_length)[:, trim : -trim or None] for part in (frames, weight))
        return (summed / window_sum.clamp_min(1e-3))[:, None]


def _fold_frames(frames: Tensor, hop_length: int) -> Tensor:
    """(B, T, fft) -> (B, (T - 1) * hop + fft), each frame a hop after the one before."""
    count, n_fft = frames.shape[1:]
    size = (1, (count - 1) * hop_length + n_fft)
    return F.fold(frames.transpose(1, 2), size, (1, n_fft), stride=(1, hop_length))[:, 0, 0]


MAX_GAIN = 100.0
"""Times that a frequency is made stronger or weaker in one round at most."""


def refine_to_mel(waveform: Tensor, mel: Tensor, mel_transform: MelSpectrogram, steps: int) -> Tensor:
    """Our own proposal, after Griffin and Lim's alternation (1984), with gains in the place of magnitudes.

    In each round every moment's frequencies are multiplied by what its bands lack, then laid over one another again.
    Unlike Griffin-Lim it keeps what the vocoder knows within a band, the fine structure that a spectrogram has not.

    Args:
        sound: (B, 1, T * hop), what a vocoder made of `mel`.
        mel: (B, bands, T), natural logarithms.
        front: makes such spectrograms.
        rounds: 0 leaves it as it is.
    """
    filterbank, window = (
        mel_transform.filterbank.to(waveform.device).float(),
        mel_transform.window.to(waveform.device).float(),
    )
    min_amplitude, hop_length = mel_transform.config.min_amplitude, mel_transform.config.hop_length
    coverage = filterbank.sum(0)[:, None]
    inverse = filterbank.T / coverage.clamp_min(1e-6)
    passthrough = (coverage <= 1e-6).float()  # frequencies of no band stay as they are
    target = mel.float().exp().clamp_min(min_amplitude)
    for _ in range(steps):
        spectrum = torch.stft(
            mel_transform.pad(waveform.float()),
            len(window),
            hop_length,
            window=window,
            center=False,
            return_complex=True,
        )
        gain = inverse @ (target / (filterbank @ spectrum.abs()).clamp_min(min_amplitude)) + passthrough
        waveform = overlap_add((spectrum * gain.clamp(1 / MAX_GAIN, MAX_GAIN)).transpose(1, 2), window, hop_length)
    return waveform
