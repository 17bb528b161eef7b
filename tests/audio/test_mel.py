"""A spectrogram shows what sounds, where and how loud."""

from __future__ import annotations

import math

import pytest
import torch
from audio.tones import tone
from pydantic import ValidationError

from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_core.errors import ShapeError


def test_a_sound_has_exactly_one_frame_a_hop():
    assert MelSpectrogram(MelConfig())(torch.zeros(2, 1, 16384)).shape == (2, 80, 64)


def test_silence_is_the_floor_in_every_band():
    settings = MelConfig()
    assert torch.allclose(MelSpectrogram(settings)(torch.zeros(1, 1, 4096)), torch.tensor(settings.min_value))


def test_a_tone_stands_in_the_band_of_its_pitch():
    # Slaney's scale is linear below 1000 Hz, 200 / 3 Hz a step, and 27 steps an octave of 6.4 above
    top = 15 + 27 * math.log(8) / math.log(6.4)
    mel = MelSpectrogram(MelConfig())(tone(500.0, partials=1)[None])
    assert int(mel[0, :, 16].argmax()) == round(500 * 3 / 200 / top * 81) - 1


def test_ten_times_as_loud_is_ln_ten_higher_or_one_in_decimal():
    sound = 0.05 * tone(440.0)[None]
    for logarithm, wanted in (("natural", math.log(10)), ("decimal", 1.0)):
        mel = MelSpectrogram(MelConfig(log_base=logarithm))
        louder, plain = mel(10 * sound), mel(sound)
        heard = plain > plain.max() - 1.5 * wanted  # what is near the floor is bounded by it
        assert torch.allclose((louder - plain)[heard], torch.tensor(wanted), atol=2e-2)


def test_a_batch_of_two_equals_two_singles():
    sounds = torch.stack([tone(200.0), tone(300.0)])
    mel = MelSpectrogram(MelConfig())
    assert torch.allclose(mel(sounds), torch.cat([mel(sounds[:1]), mel(sounds[1:])]), atol=1e-5)


@pytest.mark.parametrize("samples", [1000, 256])
def test_a_length_without_whole_frames_names_the_next_that_has(samples):
    with pytest.raises(ShapeError, match=f"the next that fits: {1024 if samples == 1000 else 512}"):
        MelSpectrogram(MelConfig())(torch.zeros(1, 1, samples))


def test_stereo_is_refused():
    with pytest.raises(ShapeError, match="a batch of sounds"):
        MelSpectrogram(MelConfig())(torch.zeros(1, 2, 4096))


def test_bands_above_half_the_rate_are_refused():
    with pytest.raises(ValidationError, match="at most half the rate"):
        MelConfig(sample_rate=8000)
