"""How high a sound is: the pitch of its steady part, by how well the spectrum fits the harmonics of each candidate."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_NOTE, MAX_NOTE, NOTE_STEP = 27.5, 109.0, 0.1
"""Candidates, in MIDI numbers: from 40 Hz to 4.4 kHz, ten a semitone."""
HOP_LENGTH = 1024
MIN_RELATIVE_LOUDNESS = 0.1
"""Of the loudest moment; what is fainter has no say."""
ONSET_WEIGHT = 0.2
"""What the first moments weigh, where most instruments make noise rather than a tone."""


@dataclass(frozen=True)
class _PitchTable:
    """What depends on the rate alone: sizes of windows, how they are read, and what each candidate's spectrum is like.

    Attributes:
        notes: (C,) candidates, MIDI numbers.
        windows: samples of each window, powers of two.
        readings: for each window (G, window / 2 + 1): magnitudes of a spectrum -> at G places even on the ERB scale.
        places: for each window which candidates it says something of.
        kernels: for each window, of those candidates (C', G): what their spectra are like, times the window's share in
            what is said of each, which over all windows adds up to 1.
    """

    notes: Tensor
    windows: tuple[int, ...]
    resamplers: tuple[Tensor, ...]
    candidates: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]


def estimate_pitch(waveforms: Tensor, sample_rate: int = 16000) -> tuple[Tensor, Tensor]:
    """SWIPE' (Camacho and Harris, JASA 124, 2008), its scores averaged over time before the best one is taken.

    Each candidate's score is the cosine between the root of the spectrum, on the ERB scale, and a comb with lobes at
    the first and the prime harmonics and dips between them, in windows of about eight periods. The mean over time,
    weighted by the root of the loudness, is our own: one note a sound is looked for.

    Args:
        sounds: (B, 1, S).
        rate: samples a second.

    Returns:
        (B,) MIDI numbers (69 is 440 Hz), good to about 0.1, from 27.5 to 109; 0 where there is silence.
        (B,) how sure they are, from 0 to 1: the score of the best.
    """
    table = _pitch_table(sample_rate)
    with torch.no_grad():
        waveform = waveforms[:, 0].float()
        weights = _frame_weights(waveform)
        scores = torch.einsum("bct,bt->bc", _candidate_scores(waveform, table), weights)
        best, index = scores.max(1)
        is_silent = weights.sum(1) == 0
        notes = table.notes[index] + NOTE_STEP * _parabolic_offset(scores, index)
        return notes.masked_fill(is_silent, 0.0), best.clamp(0, 1).masked_fill(is_silent, 0.0)


def _candidate_scores(waveform: Tensor, table: _PitchTable) -> Tensor:
    """(B, S) -> (B, C, T)."""
    total = torch.zeros(len(waveform), len(table.notes), waveform.shape[1] // HOP_LENGTH + 1)
    for window, resampler, candidates, kernels in zip(
        table.windows, table.resamplers, table.candidates, table.kernels, strict=True
    ):
        hann = torch.hann_window(window)
        spectrum = torch.stft(waveform, window, HOP_LENGTH, window=hann, pad_mode="constant", return_complex=True)
        loudness = (resampler @ spectrum.abs()).clamp(min=0).sqrt()
        norm = loudness.square().sum(1, keepdim=True).sqrt().clamp(min=1e-4)
        total[:, candidates] += kernels @ (loudness / norm)
    return total


def _frame_weights(waveform: Tensor) -> Tensor:
    """(B, S) -> (B, S // HOP + 1), adding up to 1; all 0 for silence."""
    power = F.avg_pool1d(F.pad(waveform, (HOP_LENGTH // 2, HOP_LENGTH))[:, None].square(), HOP_LENGTH, HOP_LENGTH)[:, 0]
    rms = power[:, : waveform.shape[1] // HOP_LENGTH + 1].sqrt()
    relative = rms / rms.amax(1, keepdim=True).clamp(min=1e-5)
    weights = torch.where(relative > MIN_RELATIVE_LOUDNESS, relative.sqrt(), 0.0)
    weights[:, :2] *= ONSET_WEIGHT
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _parabolic_offset(scores: Tensor, index: Tensor) -> Tensor:
    """Where the top of the parabola through the best candidate and its neighbours lies, -0.5 to 0.5 steps from it."""
    center = index.clamp(1, scores.shape[1] - 2)[:, None]
    left, middle, right = (scores.gather(1, center + step)[:, 0] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = torch.where(curvature < 0, (left - right) / (2 * curvature.clamp(max=-1e-9)), 0.0)
    return torch.where(center[:, 0] == index, shift.clamp(-0.5, 0.5), 0.0)


@functools.lru_cache(maxsize=4)
def _pitch_table(sample_rate: int) -> _PitchTable:
    notes = torch.arange(MIN_NOTE, MAX_NOTE, NOTE_STEP, dtype=torch.float64)
    notes = notes[_note_to_hz(notes) < sample_rate / 4]
    log_window = torch.log2(
        8 * sample_rate / _note_to_hz(notes)
    )  # windows of eight periods, Hann's main lobe being four bins wide
    powers = range(int(log_window.min()), int(log_window.max()) + 2)
    clamped = log_window.clamp(powers[0], powers[-1])
    frequencies = _erb_to_hz(torch.arange(_hz_to_erb(15.0), _hz_to_erb(sample_rate / 2 - 50), 0.1, dtype=torch.float64))
    windows = tuple(2**power for power in powers)
    window_weights = [(1 - (clamped - power).abs()).clamp(min=0) for power in powers]
    kernels = _candidate_kernels(frequencies, _note_to_hz(notes))
    return _PitchTable(
        notes.float(),
        windows,
        tuple(_frequency_resampler(frequencies, window, sample_rate) for window in windows),
        tuple(torch.nonzero(weight).flatten() for weight in window_weights),
        tuple((kernels * weight[:, None])[weight > 0].float() for weight in window_weights),
    )


def _candidate_kernels(frequencies: Tensor, candidate_hz: Tensor) -> Tensor:
    """(G,) and (C,) in Hz -> (C, G): cosine lobes at prime harmonics, weaker with frequency, of unit positive part."""
    ratio = frequencies / candidate_hz[:, None]
    max_harmonic = torch.floor(frequencies[-1] / candidate_hz - 0.75)[:, None]
    kernel = torch.zeros_like(ratio)
    for harmonic in _harmonics(int(max_harmonic.max())):
        distance = (ratio - harmonic).abs()
        lobe = torch.cos(2 * math.pi * ratio) * ((distance < 0.25) + 0.5 * ((distance >= 0.25) & (distance < 0.75)))
        kernel += lobe * (max_harmonic >= harmonic)
    kernel = kernel / frequencies.sqrt()
    return kernel / kernel.clamp(min=0).square().sum(1, keepdim=True).sqrt()


def _harmonics(max_harmonic: int) -> list[int]:
    """1 and the primes up to `most`."""
    return [1, *(n for n in range(2, max_harmonic + 1) if all(n % m for m in range(2, math.isqrt(n) + 1)))]


def _frequency_resampler(frequencies: Tensor, window: int, sample_rate: int) -> Tensor:
    """(G, window / 2 + 1): straight lines between the two bins beside each place."""
    bins = window // 2 + 1
    position = frequencies * window / sample_rate
    lower = position.floor().long().clamp(max=bins - 2)
    rows = torch.arange(len(frequencies))
    resampler = torch.zeros(len(frequencies), bins, dtype=torch.float64)
    resampler[rows, lower] = 1 - (position - lower)
    resampler[rows, lower + 1] = position - lower
    return resampler.float()


def _note_to_hz(notes: Tensor) -> Tensor:
    return 440 * 2 ** ((notes - 69) / 12)


def _hz_to_erb(hz: float) -> float:
    return 21.4 * math.log10(1 + hz / 229)


def _erb_to_hz(erb: Tensor) -> Tensor:
    return 229 * (10 ** (erb / 21.4) - 1)
