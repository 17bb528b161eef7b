"""Mel spectrograms: waveform -> log-mel, overlap-add, and the refinement of a waveform to a spectrogram."""

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
    """Parameters of a mel spectrogram; the defaults are those of the paper."""

    sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second")
    n_fft: int = Field(1024, ge=16, le=16384, description="samples of a window")
    hop_length: int = Field(256, ge=1, le=8192, description="samples between windows")
    n_mels: int = Field(80, ge=1, le=512, description="number of mel bands")
    f_min: float = Field(0.0, ge=0, description="lower edge of the lowest band, Hz")
    f_max: float = Field(8000.0, gt=0, description="upper edge of the highest band, Hz")
    min_amplitude: float = Field(1e-5, gt=0, lt=1, description="magnitudes are clamped to at least this value")
    log_base: Literal["natural", "decimal"] = Field(
        "natural", description="natural: as in BigVGAN; decimal: base 10, as in Make-An-Audio"
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> MelConfig:
        nyquist = self.sample_rate / 2
        if not self.f_min < self.f_max <= nyquist:
            raise ValueError(
                f"f_min and f_max: got {self.f_min:g} and {self.f_max:g} Hz, expected f_min < f_max <= {nyquist:g} "
                "(half of sample_rate)"
            )
        if self.hop_length > self.n_fft or (self.n_fft - self.hop_length) % 2:
            raise ValueError(
                f"n_fft and hop_length: got {self.n_fft} and {self.hop_length}, expected an even difference >= 0"
            )
        return self

    @property
    def min_value(self) -> float:
        """Value of a silent band."""
        return math.log(self.min_amplitude) * self.log_scale

    @property
    def log_scale(self) -> float:
        """Factor from natural logarithms to those of `log_base`."""
        return 1.0 if self.log_base == "natural" else 1 / math.log(10)


class MelSpectrogram(nn.Module):
    """Logarithm of Slaney mel bands of STFT magnitudes.

    A waveform of S samples has exactly S / hop frames: it is mirrored by (n_fft - hop) / 2 samples at both ends, and
    windows are not centered, as in HiFi-GAN and BigVGAN (arXiv 2010.05646, 2206.04658).
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        # plain tensors instead of buffers: they are computed from the config and stay float32 if weights do not
        with torch.device("cpu"):
            filterbank = melscale_fbanks(
                config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, config.sample_rate, "slaney", "slaney"
            )
            self.filterbank, self.window = filterbank.T.contiguous(), torch.hann_window(config.n_fft)

    def forward(self, waveform: Tensor) -> Tensor:
        """Map a waveform (B, 1, S) in [-1, 1] to (B, n_mels, S / hop).

        Raises:
            ShapeError: there are several channels, S is no multiple of the hop, or is too short to be mirrored.
        """
        # bfloat16 would lose small differences of loud partials
        with torch.autocast(waveform.device.type, enabled=False):
            window, filterbank = (part.to(waveform.device) for part in (self.window, self.filterbank))
            magnitudes = stft_magnitude(self.pad(waveform.float()), window, self.config.hop_length)
            mel = (filterbank @ magnitudes).clamp_min(self.config.min_amplitude)
            log_mel: Tensor = mel.log() * self.config.log_scale
            return log_mel

    def pad(self, waveform: Tensor) -> Tensor:
        """Mirror a waveform (B, 1, S) at both ends to (B, S + n_fft - hop)."""
        check_shape(waveform, (None, 1, None), "a batch of waveforms")
        n_fft, hop_length = self.config.n_fft, self.config.hop_length
        length, padding = waveform.shape[-1], (n_fft - hop_length) // 2
        if length % hop_length or length <= padding:
            next_length = max(-(-length // hop_length), padding // hop_length + 1) * hop_length
            raise ShapeError(
                f"waveform of a spectrogram: got {length} samples, expected a multiple of {hop_length} above {padding},"
                f" such as {next_length}"
            )
        return F.pad(waveform, (padding, padding), mode="reflect")[:, 0]


def stft_magnitude(waveform: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Compute STFT magnitudes (B, n_fft / 2 + 1, frames) of a waveform (B, S), windows not centered."""
    spectrum = torch.stft(waveform, len(window), hop_length, window=window, center=False, return_complex=True)
    # clamped: the gradient of the root is infinite at 0
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-12).sqrt()


def overlap_add(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Invert an STFT by overlap-add, normalized by the sum of squared windows.

    Args:
        spectrum: (B, T, n_fft / 2 + 1) complex.
        window: (n_fft,).
        hop_length: samples between windows; (n_fft - hop_length) / 2 samples are cut off at both ends.

    Returns:
        (B, 1, T * hop_length).
    """
    n_fft, count = len(window), spectrum.shape[1]
    with torch.autocast(spectrum.device.type, enabled=False):
        frames = torch.fft.irfft(spectrum, n_fft) * window
        weight = window.square().expand(1, count, n_fft)
        trim = (n_fft - hop_length) // 2
        summed, window_sum = (_fold_frames(part, hop_length)[:, trim : -trim or None] for part in (frames, weight))
        return (summed / window_sum.clamp_min(1e-3))[:, None]


def _fold_frames(frames: Tensor, hop_length: int) -> Tensor:
    """Add overlapping frames (B, T, n_fft) to (B, (T - 1) * hop + n_fft)."""
    count, n_fft = frames.shape[1:]
    size = (1, (count - 1) * hop_length + n_fft)
    return F.fold(frames.transpose(1, 2), size, (1, n_fft), stride=(1, hop_length))[:, 0, 0]


MAX_GAIN = 100.0
"""Largest gain, and reciprocal of the smallest, of a frequency in one step of `refine_to_mel`."""


def refine_to_mel(waveform: Tensor, mel: Tensor, mel_transform: MelSpectrogram, steps: int) -> Tensor:
    """Bring a waveform closer to a mel spectrogram. Our own, after the iteration of Griffin and Lim (1984).

    In each step, the spectrum of every frame is multiplied by the gain that its mel bands lack, and inverted by
    overlap-add. Other than Griffin-Lim, this keeps phases and the fine structure within a band as the vocoder made
    them.

    Args:
        waveform: (B, 1, T * hop), the output of a vocoder.
        mel: (B, n_mels, T), natural logarithms.
        mel_transform: computes such spectrograms.
        steps: 0 returns the waveform unchanged.
    """
    filterbank = mel_transform.filterbank.to(waveform.device).float()
    window = mel_transform.window.to(waveform.device).float()
    min_amplitude, hop_length = mel_transform.config.min_amplitude, mel_transform.config.hop_length
    coverage = filterbank.sum(0)[:, None]
    inverse = filterbank.T / coverage.clamp_min(1e-6)
    passthrough = (coverage <= 1e-6).float()  # frequencies outside of all bands are unchanged
    target = mel.float().exp().clamp_min(min_amplitude)
    for _ in range(steps):
        padded = mel_transform.pad(waveform.float())
        spectrum = torch.stft(padded, len(window), hop_length, window=window, center=False, return_complex=True)
        gain = inverse @ (target / (filterbank @ spectrum.abs()).clamp_min(min_amplitude)) + passthrough
        waveform = overlap_add((spectrum * gain.clamp(1 / MAX_GAIN, MAX_GAIN)).transpose(1, 2), window, hop_length)
    return waveform
