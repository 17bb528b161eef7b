"""How high a sound is: the pitch of its steady part, by how well the spectrum fits the harmonics of each candidate."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST, STEP = 27.5, 109.0, 0.1
"""Candidates, in MIDI numbers: from 40 Hz to 4.4 kHz, ten a semitone."""
HOP = 1024
FAINT = 0.1
"""Of the loudest moment; what is fainter has no say."""
SUDDEN = 0.2
"""What the first moments weigh, where most instruments make noise rather than a tone."""


@dataclass(frozen=True)
class _Table:
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
    readings: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]


def pitch(sounds: Tensor, rate: int = 16000) -> tuple[Tensor, Tensor]:
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
    table = _table(rate)
    with torch.no_grad():
        waveform = sounds[:, 0].float()
        weights = _weights(waveform)
        scores = torch.einsum("bct,bt->bc", _scores(waveform, table), weights)
        best, place = scores.max(1)
        quiet = weights.sum(1) == 0
        notes = table.notes[place] + STEP * _between(scores, place)
        return notes.masked_fill(quiet, 0.0), best.clamp(0, 1).masked_fill(quiet, 0.0)


def _scores(waveform: Tensor, table: _Table) -> Tensor:
    """(B, S) -> (B, C, T)."""
    total = torch.zeros(len(waveform), len(table.notes), waveform.shape[1] // HOP + 1)
    for window, reading, places, kernels in zip(
        table.windows, table.readings, table.places, table.kernels, strict=True
    ):
        shape = torch.hann_window(window)
        spectrum = torch.stft(waveform, window, HOP, window=shape, pad_mode="constant", return_complex=True)
        loudness = (reading @ spectrum.abs()).clamp(min=0).sqrt()
        length = loudness.square().sum(1, keepdim=True).sqrt().clamp(min=1e-4)
        total[:, places] += kernels @ (loudness / length)
    return total


def _weights(waveform: Tensor) -> Tensor:
    """(B, S) -> (B, S // HOP + 1), adding up to 1; all 0 for silence."""
    power = F.avg_pool1d(F.pad(waveform, (HOP // 2, HOP))[:, None].square(), HOP, HOP)[:, 0]
    loud = power[:, : waveform.shape[1] // HOP + 1].sqrt()
    relative = loud / loud.amax(1, keepdim=True).clamp(min=1e-5)
    weights = torch.where(relative > FAINT, relative.sqrt(), 0.0)
    weights[:, :2] *= SUDDEN
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _between(scores: Tensor, place: Tensor) -> Tensor:
    """Where the top of the parabola through the best candidate and its neighbours lies, -0.5 to 0.5 steps from it."""
    inner = place.clamp(1, scores.shape[1] - 2)[:, None]
    left, middle, right = (scores.gather(1, inner + step)[:, 0] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = torch.where(bend < 0, (left - right) / (2 * bend.clamp(max=-1e-9)), 0.0)
    return torch.where(inner[:, 0] == place, shift.clamp(-0.5, 0.5), 0.0)


@functools.lru_cache(maxsize=4)
def _table(rate: int) -> _Table:
    notes = torch.arange(LOWEST, HIGHEST, STEP, dtype=torch.float64)
    notes = notes[_hertz(notes) < rate / 4]
    wanted = torch.log2(8 * rate / _hertz(notes))  # windows of eight periods, Hann's main lobe being four bins wide
    powers = range(int(wanted.min()), int(wanted.max()) + 2)
    between = wanted.clamp(powers[0], powers[-1])
    places = _from_erb(torch.arange(_erb(15.0), _erb(rate / 2 - 50), 0.1, dtype=torch.float64))
    windows = tuple(2**power for power in powers)
    shares = [(1 - (between - power).abs()).clamp(min=0) for power in powers]
    kernels = _kernels(places, _hertz(notes))
    return _Table(
        notes.float(),
        windows,
        tuple(_reading(places, window, rate) for window in windows),
        tuple(torch.nonzero(share).flatten() for share in shares),
        tuple((kernels * share[:, None])[share > 0].float() for share in shares),
    )


def _kernels(places: Tensor, tones: Tensor) -> Tensor:
    """(G,) and (C,) in Hz -> (C, G): cosine lobes at prime harmonics, weaker with frequency, of unit positive part."""
    ratio = places / tones[:, None]
    most = torch.floor(places[-1] / tones - 0.75)[:, None]
    kernel = torch.zeros_like(ratio)
    for harmonic in _primes(int(most.max())):
        away = (ratio - harmonic).abs()
        lobe = torch.cos(2 * math.pi * ratio) * ((away < 0.25) + 0.5 * ((away >= 0.25) & (away < 0.75)))
        kernel += lobe * (most >= harmonic)
    kernel = kernel / places.sqrt()
    return kernel / kernel.clamp(min=0).square().sum(1, keepdim=True).sqrt()


def _primes(most: int) -> list[int]:
    """1 and the primes up to `most`."""
    return [1, *(n for n in range(2, most + 1) if all(n % m for m in range(2, math.isqrt(n) + 1)))]


def _reading(places: Tensor, window: int, rate: int) -> Tensor:
    """(G, window / 2 + 1): straight lines between the two bins beside each place."""
    bins = window // 2 + 1
    exact = places * window / rate
    lower = exact.floor().long().clamp(max=bins - 2)
    rows = torch.arange(len(places))
    reading = torch.zeros(len(places), bins, dtype=torch.float64)
    reading[rows, lower] = 1 - (exact - lower)
    reading[rows, lower + 1] = exact - lower
    return reading.float()


def _hertz(notes: Tensor) -> Tensor:
    return 440 * 2 ** ((notes - 69) / 12)


def _erb(hertz: float) -> float:
    return 21.4 * math.log10(1 + hertz / 229)


def _from_erb(rates: Tensor) -> Tensor:
    return 229 * (10 ** (rates / 21.4) - 1)
