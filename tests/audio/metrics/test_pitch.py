"""Pitch estimation on tones of known pitch."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_audio.metrics.pitch import estimate_pitch

RATE, SAMPLES = 16000, 16384


def tone(note: float, partials, weights=None):
    hertz, time = 440 * 2 ** ((note - 69) / 12), torch.arange(SAMPLES) / RATE
    strength = weights or [1 / k for k in partials]
    waves = [w * torch.sin(2 * math.pi * hertz * k * time + k) for k, w in zip(partials, strength, strict=True)]
    return (0.3 * torch.stack([wave for wave, k in zip(waves, partials, strict=True) if hertz * k < 7900]).sum(0))[None]


@pytest.mark.parametrize("partials", [(1,), (1, 2, 3, 4, 5, 6, 7, 8), (1, 3, 5, 7, 9)], ids=["sine", "all", "odd"])
def test_error_is_below_a_quarter_of_a_semitone_over_five_octaves(partials):
    notes = [36.0, 43.4, 50.0, 57.7, 64.0, 72.0, 81.3, 96.0]
    found, sure = estimate_pitch(torch.stack([tone(note, partials) for note in notes]))
    assert (found - torch.tensor(notes)).abs().max() < 0.25 and sure.min() > 0.3


def test_missing_fundamental_does_not_change_the_pitch():
    found, _ = estimate_pitch(torch.stack([tone(note, (2, 3, 4, 5, 6, 7)) for note in (45.0, 52.0, 60.0)]))
    assert torch.allclose(found, torch.tensor([45.0, 52.0, 60.0]), atol=0.3)


def test_loud_second_harmonic_is_no_octave_error():
    found, _ = estimate_pitch(tone(55.0, (1, 2, 3, 4, 5), [0.2, 1, 0.3, 0.4, 0.2])[None])
    assert found.item() == pytest.approx(55, abs=0.3)


def test_noise_does_not_change_the_pitch_and_alone_has_a_low_score():
    torch.manual_seed(0)
    noise, audible = torch.randn(1, SAMPLES) * 0.1, tone(62.0, (1, 2, 3, 4, 5))
    found, sure = estimate_pitch(torch.stack([audible + noise, noise]))
    assert found[0].item() == pytest.approx(62, abs=0.3) and sure[0] > 2 * sure[1]


def test_short_tone_in_silence_and_silence_alone():
    brief = torch.zeros(1, SAMPLES)
    brief[:, 3000:6000] = tone(67.0, (1, 2, 3, 4))[:, :3000]
    found, sure = estimate_pitch(torch.stack([brief, torch.zeros(1, SAMPLES)]))
    assert found[0].item() == pytest.approx(67, abs=0.3) and (found[1], sure[1]) == (0, 0)


def test_other_sample_rate():
    found, _ = estimate_pitch(tone(60.0, (1, 2, 3, 4, 5))[None], 32000)
    assert found.item() == pytest.approx(72, abs=0.3)
