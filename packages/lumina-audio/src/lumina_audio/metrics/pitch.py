"""Pitch estimation by SWIPE', and the metric that compares it with the note that a prompt names."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.features import AudioFeatureConfig, prepare
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.metrics.base import batch_by_shape
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

SAMPLE_RATE, BATCH_SIZE = 16000, 16
MIN_NOTE, MAX_NOTE, NOTE_STEP = 27.5, 109.0, 0.1
"""Candidates in MIDI note numbers: from 40 Hz to 4.4 kHz, ten per semitone."""
HOP_LENGTH = 1024
MIN_RELATIVE_LOUDNESS = 0.1
"""Loudness, relative to the loudest frame, below which a frame is ignored."""
ONSET_WEIGHT = 0.2
"""Weight of the first frames, where most instruments make noise rather than a tone."""


def estimate_pitch(waveforms: Tensor, sample_rate: int = SAMPLE_RATE) -> tuple[Tensor, Tensor]:
    """Estimate one pitch per clip by SWIPE' (Camacho and Harris, JASA 124, 2008).

    The score of a candidate is the cosine between the square root of the spectrum, on the ERB scale, and a kernel with
    positive lobes at the first and the prime harmonics and negative ones between them, in windows of about eight
    periods. Scores are averaged over frames, weighted by the root of the loudness, before the best candidate is
    selected; this average is our own.

    Args:
        waveforms: (B, 1, S).
        sample_rate: samples per second.

    Returns:
        (B,) MIDI note numbers (69 is 440 Hz) from 27.5 to 109, with an error of about 0.1, of a sine without harmonics
            up to 0.3; 0 for a silent clip.
        (B,) scores of the best candidates, from 0 to 1; 0 for a silent clip.
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


class PitchFeatures(FeatureExtractor):
    """MIDI note number and score of the pitch of a clip, by `estimate_pitch`."""

    name, key = "SWIPE'", "swipe prime 27.5-109 by 0.1"

    class Config(AudioFeatureConfig):
        """Sample rate of the audio."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 2) float32."""
        batches = batch_by_shape(prepare(items, self.config.sample_rate, SAMPLE_RATE), BATCH_SIZE)
        return torch.cat([torch.stack(estimate_pitch(batch, SAMPLE_RATE), 1) for batch in batches])


class PitchAccuracy(Metric):
    """Share of clips with the pitch that their prompt names, over prompts that name one. Our own metric.

    `accuracy`: within the tolerance. `octave_error`: the same note in another octave. `accuracy_of_real`: the same for
    the real clip of the prompt, an upper bound: the estimator errs, and some instruments sound an octave or a fifth
    away from the note that is played. `matches_real`: within the tolerance of the real clip's estimated pitch.

    The field `pitch` of an evaluation item is the MIDI note number that its prompt names, or None.
    """

    name = "pitch"

    class Config(Settings):
        """Feature extractor, and tolerance."""

        feature_extractor: ComponentSpec = ComponentSpec(type="audio.pitch")
        tolerance_semitones: float = Field(1.0, gt=0, le=6, description="largest error of a correct pitch, semitones")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute (M,) of 0 and 1 for each score, NaN where the prompt names no pitch."""
        notes = [item.fields.get("pitch") for item in inputs.items]
        target = torch.tensor([torch.nan if note is None else float(note) for note in notes], dtype=torch.float64)
        generated, real = inputs.generated[:, 0].double(), inputs.real[inputs.target_index][:, 0].double()
        error, tolerance = generated - target, self.config.tolerance_semitones
        octaves = (error / 12).round()
        results = {
            "accuracy": error.abs() <= tolerance,
            "octave_error": (octaves != 0) & ((error - 12 * octaves).abs() <= tolerance),
            "accuracy_of_real": (real - target).abs() <= tolerance,
            "matches_real": (generated - real).abs() <= tolerance,
        }
        return {name: result.double().masked_fill(target.isnan(), torch.nan) for name, result in results.items()}


@dataclass(frozen=True)
class _PitchTable:
    """Constants of SWIPE' for one sample rate; C candidates, G points of the ERB scale.

    Attributes:
        notes: (C,) candidates, MIDI note numbers.
        windows: lengths of the windows in samples, powers of two.
        resamplers: per window (G, window / 2 + 1), which maps a magnitude spectrum to the ERB scale.
        candidates: per window, the indices (C',) of the candidates that it scores.
        kernels: per window (C', G), the kernels of these candidates times the weight of the window; the weights of a
            candidate add up to 1 over all windows.
    """

    notes: Tensor
    windows: tuple[int, ...]
    resamplers: tuple[Tensor, ...]
    candidates: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]


def _candidate_scores(waveform: Tensor, table: _PitchTable) -> Tensor:
    """Score candidates in frames: (B, S) -> (B, C, T)."""
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
    """Compute weights of frames that add up to 1, or are all 0 for a silent clip: (B, S) -> (B, T)."""
    power = F.avg_pool1d(F.pad(waveform, (HOP_LENGTH // 2, HOP_LENGTH))[:, None].square(), HOP_LENGTH, HOP_LENGTH)[:, 0]
    rms = power[:, : waveform.shape[1] // HOP_LENGTH + 1].sqrt()
    relative = rms / rms.amax(1, keepdim=True).clamp(min=1e-5)
    weights = torch.where(relative > MIN_RELATIVE_LOUDNESS, relative.sqrt(), 0.0)
    weights[:, :2] *= ONSET_WEIGHT
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _parabolic_offset(scores: Tensor, index: Tensor) -> Tensor:
    """Locate the vertex of the parabola through the best candidate and its neighbors, -0.5 to 0.5 steps from it."""
    center = index.clamp(1, scores.shape[1] - 2)[:, None]
    left, middle, right = (scores.gather(1, center + step)[:, 0] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = torch.where(curvature < 0, (left - right) / (2 * curvature.clamp(max=-1e-9)), 0.0)
    return torch.where(center[:, 0] == index, shift.clamp(-0.5, 0.5), 0.0)


@functools.lru_cache(maxsize=4)
def _pitch_table(sample_rate: int) -> _PitchTable:
    notes = torch.arange(MIN_NOTE, MAX_NOTE, NOTE_STEP, dtype=torch.float64)
    notes = notes[_note_to_hz(notes) < sample_rate / 4]
    # windows of eight periods: the main lobe of Hann's window is four bins wide
    log_window = torch.log2(8 * sample_rate / _note_to_hz(notes))
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
    """Compute kernels (C, G) for frequencies (G,) and candidates (C,) in hertz: their positive part has norm 1."""
    ratio = frequencies / candidate_hz[:, None]
    max_harmonic = torch.floor(frequencies[-1] / candidate_hz - 0.75)[:, None]
    kernel = torch.zeros_like(ratio)
    for harmonic in _prime_harmonics(int(max_harmonic.max())):
        distance = (ratio - harmonic).abs()
        lobe = torch.cos(2 * math.pi * ratio) * ((distance < 0.25) + 0.5 * ((distance >= 0.25) & (distance < 0.75)))
        kernel += lobe * (max_harmonic >= harmonic)
    kernel = kernel / frequencies.sqrt()
    return kernel / kernel.clamp(min=0).square().sum(1, keepdim=True).sqrt()


def _prime_harmonics(max_harmonic: int) -> list[int]:
    """List 1 and the primes up to a maximum."""
    return [1, *(n for n in range(2, max_harmonic + 1) if all(n % m for m in range(2, math.isqrt(n) + 1)))]


def _frequency_resampler(frequencies: Tensor, window: int, sample_rate: int) -> Tensor:
    """Compute the matrix (G, window / 2 + 1) that interpolates linearly between the two nearest bins."""
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
