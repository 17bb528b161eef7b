"""Mel spectrogram, and the refinement of a waveform to one."""

from __future__ import annotations

import math

import pytest
import torch
from audio.tones import chord, tone
from pydantic import ValidationError
from torch._subclasses.fake_tensor import FakeTensorMode

from lumina_audio.mel import MelConfig, MelSpectrogram, overlap_add, refine_to_mel
from lumina_audio.vocoders.loss import stft_loss
from lumina_core.errors import ShapeError


def test_one_frame_per_hop():
    assert MelSpectrogram(MelConfig())(torch.zeros(2, 1, 16384)).shape == (2, 80, 64)


def test_silence_is_min_value_in_every_band():
    settings = MelConfig()
    assert torch.allclose(MelSpectrogram(settings)(torch.zeros(1, 1, 4096)), torch.tensor(settings.min_value))


def test_tone_peaks_in_the_band_of_its_frequency():
    # Slaney's scale is linear below 1000 Hz, 200 / 3 Hz a step, and 27 steps an octave of 6.4 above
    top = 15 + 27 * math.log(8) / math.log(6.4)
    mel = MelSpectrogram(MelConfig())(tone(500.0, partials=1)[None])
    assert int(mel[0, :, 16].argmax()) == round(500 * 3 / 200 / top * 81) - 1


def test_tenfold_amplitude_adds_the_logarithm_of_ten():
    sound = 0.05 * tone(440.0)[None]
    for logarithm, expected in (("natural", math.log(10)), ("decimal", 1.0)):
        mel = MelSpectrogram(MelConfig(log_base=logarithm))
        louder, plain = mel(10 * sound), mel(sound)
        audible = plain > plain.max() - 1.5 * expected  # what is near the floor is bounded by it
        assert torch.allclose((louder - plain)[audible], torch.tensor(expected), atol=2e-2)


def test_spectrogram_does_not_depend_on_the_batch():
    sounds = torch.stack([tone(200.0), tone(300.0)])
    mel = MelSpectrogram(MelConfig())
    assert torch.allclose(mel(sounds), torch.cat([mel(sounds[:1]), mel(sounds[1:])]), atol=1e-5)


@pytest.mark.parametrize("samples", [1000, 256])
def test_error_for_a_length_names_the_next_valid_one(samples):
    with pytest.raises(ShapeError, match=f"such as {1024 if samples == 1000 else 512}"):
        MelSpectrogram(MelConfig())(torch.zeros(1, 1, samples))


def test_stereo_is_refused():
    with pytest.raises(ShapeError, match="a batch of waveforms"):
        MelSpectrogram(MelConfig())(torch.zeros(1, 2, 4096))


def test_bands_above_the_nyquist_rate_are_refused():
    with pytest.raises(ValidationError, match="half of sample_rate"):
        MelConfig(sample_rate=8000)


TRANSFORM = MelSpectrogram(MelConfig(min_amplitude=1e-4))


def test_overlap_add_inverts_the_stft():
    sound = chord(4096)
    spectrum = torch.stft(TRANSFORM.pad(sound), 1024, 256, window=TRANSFORM.window, center=False, return_complex=True)
    assert torch.allclose(overlap_add(spectrum.transpose(1, 2), TRANSFORM.window, 256), sound, atol=1e-5)


def test_each_refinement_step_brings_the_spectrogram_closer():
    sound = chord()
    target, muffled = TRANSFORM(sound), torch.cat([tone(196.0, partials=1), 0.2 * tone(523.25)])[:, None]
    muffled = muffled + 0.003 * torch.randn(muffled.shape, generator=torch.Generator().manual_seed(0))
    errors = [
        float((TRANSFORM(refine_to_mel(muffled, target, TRANSFORM, steps)) - target).abs().mean())
        for steps in (0, 1, 4)
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert (
        stft_loss(refine_to_mel(muffled, target, TRANSFORM, 4), sound).mean() < 0.7 * stft_loss(muffled, sound).mean()
    )


def test_refinement_keeps_a_waveform_that_has_the_spectrogram():
    sound = chord()
    assert torch.allclose(refine_to_mel(sound, TRANSFORM(sound), TRANSFORM, 3), sound, atol=1e-4)


def test_a_spectrogram_is_computed_on_the_device_of_the_waveform():
    mel = MelSpectrogram(MelConfig())
    # fake tensors check devices without a GPU: constants left on the CPU raise an error
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert mel(torch.zeros(1, 1, 4096, device="cuda")).device.type == "cuda"
