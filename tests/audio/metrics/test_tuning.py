"""Pitch by YIN, voicing, harmonic-to-noise ratio and advances of the phase."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_audio.metrics.tuning import (
    YinFeatures,
    phase_advance_error,
    track_pitch,
    voicing_error,
)
from lumina_core.errors import ShapeError

RATE = 16000


def tone(hertz: float, samples: int = 16384, phase: float = 0.0) -> torch.Tensor:
    time = torch.arange(samples) / RATE
    partials = [n for n in range(1, 20) if n * hertz < 7800]
    return (0.2 * torch.stack([torch.sin(2 * math.pi * hertz * n * time + phase * n) / n for n in partials]).sum(0))[
        None
    ]


def noise(level: float, seed: int = 0) -> torch.Tensor:
    return level * torch.randn(1, 16384, generator=torch.Generator().manual_seed(seed))


def test_error_is_below_two_cents_over_seven_octaves():
    # the period of the last is 4.05 samples
    notes = [30.0, 33.3, 45.0, 57.2, 69.0, 81.4, 95.0, 98.95, 100.0, 102.0, 105.0, 107.0]
    tones = torch.stack([tone(440 * 2 ** ((note - 69) / 12)) for note in notes])
    assert 100 * float((track_pitch(tones).note() - torch.tensor(notes)).abs().max()) < 2


def test_noise_is_not_voiced_and_has_no_pitch():
    track = track_pitch(noise(0.2)[None])
    assert float(track.is_voiced.float().mean()) < 0.1
    assert float(voicing_error(track, track_pitch(tone(220.0)[None]))) > 0.9
    assert float(voicing_error(track, track)) == 0


@pytest.mark.parametrize("decibels", [5.0, 15.0, 25.0])
def test_harmonic_to_noise_ratio_is_that_of_the_mixture(decibels):
    sound = tone(220.0)
    level = float(sound.std()) * 10 ** (-decibels / 20)
    measured = float(track_pitch((sound + noise(level))[None]).harmonic_to_noise())
    assert measured == pytest.approx(decibels, abs=1.5)


def test_phase_advance_error_ignores_the_phase_and_hears_the_frequency():
    real = tone(220.0)[None]
    shifted, detuned = tone(220.0, phase=1.0)[None], tone(222.0)[None]
    assert float(phase_advance_error(real, real)) == pytest.approx(0, abs=1e-3)
    assert float(phase_advance_error(shifted, real)) < 0.1
    assert float(phase_advance_error(detuned, real)) > 3 * float(phase_advance_error(shifted, real))
    assert float(phase_advance_error(noise(0.1)[None], real)) > 0.5


def test_features_are_the_note_and_the_voiced_share_for_any_length():
    features = YinFeatures(YinFeatures.Config())([tone(440.0), tone(440.0, 700), torch.zeros(1, 8192)])
    assert features.shape == (3, 2)
    assert features[0].tolist() == pytest.approx([69.0, 1.0], abs=0.05)
    assert features[2].tolist() == [0.0, 0.0]


def test_short_waveform_is_refused():
    with pytest.raises(ShapeError, match="expected at least"):
        track_pitch(torch.zeros(1, 1, 512))
