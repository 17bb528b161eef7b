"""Metrics that hear whether a sound is in tune: pitch by YIN, harmonic-to-noise ratio, and advances of the phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_audio.metrics.features import AudioFeatureConfig, prepare
from lumina_core.errors import ShapeError
from lumina_core.metrics.base import batch_by_shape
from lumina_core.protocols import FeatureExtractor

SAMPLE_RATE, BATCH_SIZE = 16000, 16
MIN_HERTZ, MAX_HERTZ = 32.0, 4000.0
WINDOW, HOP_LENGTH = 1024, 512
"""Samples that are compared with themselves at a lag, and samples between frames."""
OVERSAMPLING = 4
"""Lags per sample: of a period of a few samples, no whole lag is near the minimum."""
SHORTEST_LAG = 40 * OVERSAMPLING
"""Lags: the aperiodicity of a shorter period is measured at a multiple of it."""
THRESHOLD = 0.15
"""Normalized difference below which the first minimum is the period, as in the YIN paper (0.1 to 0.15)."""
VOICED = 0.3
"""Normalized difference below which a frame is voiced."""
LOUD = 0.1
"""Root mean square relative to the loudest frame below which a frame does not count: -20 dB."""


@dataclass(frozen=True)
class PitchTrack:
    """Pitch of B waveforms in T frames.

    Attributes:
        hertz: (B, T) fundamental frequency.
        aperiodicity: (B, T) normalized difference at the period: 0 for a periodic sound, about 1 for noise.
        is_loud: (B, T) whether a frame is within 20 dB of the loudest.
    """

    hertz: Tensor
    aperiodicity: Tensor
    is_loud: Tensor

    @property
    def is_voiced(self) -> Tensor:
        """(B, T) whether a frame is loud and periodic."""
        return self.is_loud & (self.aperiodicity < VOICED)

    def note(self) -> Tensor:
        """Median MIDI note number of the voiced frames (B,); NaN without any."""
        notes = (69 + 12 * (self.hertz / 440).log2()).masked_fill(~self.is_voiced, torch.nan)
        return notes.nanmedian(dim=1).values

    def harmonic_to_noise(self) -> Tensor:
        """Mean ratio of periodic to other power over the loud frames, (B,) in decibels within [-20, 40].

        After Boersma (Proc. Institute of Phonetic Sciences 17, 1993), with 1 - aperiodicity / 2 as the correlation.
        """
        correlation = (1 - self.aperiodicity / 2).clamp(1e-2, 1 - 1e-4)
        ratio = (10 * (correlation / (1 - correlation)).log10()).clamp(-20, 40)
        return (ratio * self.is_loud).sum(1) / self.is_loud.sum(1).clamp_min(1)


@torch.no_grad()
def track_pitch(waveforms: Tensor, sample_rate: int = SAMPLE_RATE) -> PitchTrack:
    """Track the pitch by YIN (de Cheveigne and Kawahara, JASA 111, 2002), from 32 Hz to 4 kHz.

    The period is the first minimum of the cumulative mean normalized difference below a threshold, else its smallest
    value. It is then refined at 2, 4, 8 ... times the period, up to the longest lag, which divides its error by the
    multiple; this step is our own.

    Args:
        waveforms: (B, 1, S).
        sample_rate: samples per second.

    Raises:
        ShapeError: a waveform is shorter than a window and the longest period.
    """
    wave = waveforms[:, 0].double()
    rate = OVERSAMPLING * sample_rate
    longest = math.ceil(rate / MIN_HERTZ)
    length = WINDOW + longest // OVERSAMPLING + 2
    if wave.shape[1] < length:
        raise ShapeError(f"pitch by YIN: got {wave.shape[1]} samples, expected at least {length}")
    frames = wave.unfold(1, length, HOP_LENGTH)
    power = frames.square().mean(2).sqrt()
    is_loud = power > LOUD * power.amax(1, keepdim=True).clamp_min(1e-4)
    difference = _difference(frames)
    lags = torch.arange(1, difference.shape[2])
    normalized = difference[:, :, 1:] * lags / difference[:, :, 1:].cumsum(2).clamp_min(1e-9)
    period = 1.0 + _first_minimum(normalized, max(1, math.floor(rate / MAX_HERTZ) - 1))
    period, _ = _vertex(difference, period)
    multiple, most = torch.ones_like(period), (longest / period).floor()
    for _ in range(math.ceil(math.log2(longest / (rate / MAX_HERTZ))) + 1):
        multiple = torch.minimum(2 * multiple, most).clamp_min(1)
        refined = _vertex(difference, period * multiple)[0] / multiple
        period = torch.where((refined - period).abs() * multiple < 1.5, refined, period)
    # between two samples of a short period the difference is not small: compared at a longer multiple
    steps = (SHORTEST_LAG / period).ceil().clamp_min(1)
    total = frames[..., :WINDOW].square().sum(2)
    aperiodicity = _vertex(difference, period * steps)[1] / total.clamp_min(1e-9)
    aperiodicity = torch.where(total > 1e-9, aperiodicity, torch.ones_like(aperiodicity))
    return PitchTrack((rate / period).float(), aperiodicity.float().clamp(0, 2), is_loud)


class YinFeatures(FeatureExtractor):
    """MIDI note number of the pitch of a clip by `track_pitch`, 0 without a voiced frame, and its share of them."""

    name, key = "YIN", "yin 32-4000 Hz, window 1024"

    class Config(AudioFeatureConfig):
        """Sample rate of the audio."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 2) float32."""
        rows = []
        for batch in batch_by_shape(prepare(items, self.config.sample_rate, SAMPLE_RATE), BATCH_SIZE):
            track = track_pitch(F.pad(batch, (0, max(0, 2 * WINDOW - batch.shape[-1]))))
            voiced = track.is_voiced.sum(1) / track.is_loud.sum(1).clamp_min(1)
            rows.append(torch.stack([track.note().nan_to_num(0.0), voiced], dim=1))
        return torch.cat(rows).float()


def cents_between(generated: Tensor, real: Tensor) -> Tensor:
    """Return the difference of notes (B,) in cents, NaN where one has none."""
    return 100 * (generated - real)


def voicing_error(generated: PitchTrack, real: PitchTrack) -> Tensor:
    """Return the share of the real sound's loud frames whose voicing differs, (B,) in 0..1."""
    differs = (generated.aperiodicity < VOICED) != (real.aperiodicity < VOICED)
    return (differs & real.is_loud).sum(1) / real.is_loud.sum(1).clamp_min(1)


@torch.no_grad()
def phase_advance_error(generated: Tensor, real: Tensor, n_fft: int = 2048, hop_length: int = 256) -> Tensor:
    """Compute the mean error (B,) in radians of the phase's advance between frames, weighted by magnitude.

    The phase of a steady partial advances by its frequency times the hop. Unlike the distance of waveforms, that of
    advances is 0 for a sound whose partials begin at other phases, and unlike that of magnitudes it hears a
    frequency that is a little off. Noise has an error of about 0.7 with these windows, which overlap.

    Args:
        generated: (B, 1, S), S at least `n_fft`.
        real: (B, 1, S).
        n_fft: samples of a window.
        hop_length: samples between windows.
    """
    window = torch.hann_window(n_fft)
    first, second = (
        torch.stft(wave[:, 0].float(), n_fft, hop_length, window=window, center=False, return_complex=True)
        for wave in (generated, real)
    )
    turned = (first[..., 1:] * first[..., :-1].conj()) * (second[..., 1:] * second[..., :-1].conj()).conj()
    weight = (second[..., 1:] * second[..., :-1]).abs().sqrt()
    return (turned.angle().abs() * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-9)


def _difference(frames: Tensor) -> Tensor:
    """Compute squared differences of a window and the window at each later lag: (B, T, L) to (B, T, lags).

    Lags are fractions 1 / OVERSAMPLING of a sample: products of band-limited frames, energies between two samples.
    """
    size = 2 ** math.ceil(math.log2(frames.shape[2] + WINDOW))
    spectrum = torch.fft.rfft(frames, size) * torch.fft.rfft(frames[..., :WINDOW], size).conj()
    products = torch.fft.irfft(OVERSAMPLING * spectrum, OVERSAMPLING * size)
    energy = F.pad(frames.square().cumsum(2), (1, 0))
    energies = energy[..., WINDOW:] - energy[..., :-WINDOW]
    count = OVERSAMPLING * (energies.shape[2] - 1) + 1
    fine = F.interpolate(energies, count, mode="linear", align_corners=True)
    difference: Tensor = (fine[..., :1] + fine - 2 * products[..., :count]).clamp_min(0)
    return difference


def _first_minimum(values: Tensor, start: int) -> Tensor:
    """Return the index (B, T) of the first local minimum below the threshold from `start` on, else of the minimum."""
    inner = values[..., start:]
    is_minimum = (inner <= F.pad(inner[..., :-1], (1, 0), value=math.inf)) & (
        inner < F.pad(inner[..., 1:], (0, 1), value=-math.inf)
    )
    candidate = is_minimum & (inner < THRESHOLD)
    first = torch.where(candidate.any(2), candidate.double().argmax(2), inner.argmin(2))
    return first + start


def _vertex(difference: Tensor, lag: Tensor) -> tuple[Tensor, Tensor]:
    """Find the minimum of the parabola through the difference near a lag (B, T): its position and value (B, T)."""
    last = difference.shape[2] - 2
    # the smallest of the values nearest to the lag
    neighbors = torch.stack([(lag.round().long() + step).clamp(1, last) for step in (-1, 0, 1)], dim=-1)
    center = neighbors.gather(2, difference.gather(2, neighbors).argmin(2, keepdim=True))
    left, middle, right = (difference.gather(2, center + step)[..., 0] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    offset = torch.where(curvature > 0, (left - right) / (2 * curvature.clamp_min(1e-12)), 0.0).clamp(-1, 1)
    value = middle - (left - right) * offset / 4
    return center[..., 0] + offset, value.clamp_min(0)
