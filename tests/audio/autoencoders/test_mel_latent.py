"""Bands averaged over time are the coarse look of a sound."""

from __future__ import annotations

import pytest
import torch
from audio.tones import chord, tone

from lumina_audio.autoencoders.mel_latent import MelSpectrogramLatent
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.griffin_lim import GriffinLim
from lumina_core.errors import ShapeError


def coarse() -> MelSpectrogramLatent:
    return MelSpectrogramLatent(
        MelSpectrogramLatent.Config(mel=MelConfig(min_amplitude=1e-4), pool_size=8), GriffinLim(GriffinLim.Config())
    )


def test_eight_frames_become_their_mean():
    settings = MelConfig(min_amplitude=1e-4)
    mel = (MelSpectrogram(settings)(chord()) + 6.0) / 3.5
    assert torch.allclose(coarse().encode(chord())[..., 0], mel[..., :8].mean(-1), atol=1e-5)


def test_the_pitch_of_a_tone_can_still_be_heard():
    part = coarse()
    back = part.decode(part.encode(tone(440.0, partials=1)[None]))
    spectrum = torch.fft.rfft(back.flatten()).abs()
    assert float(spectrum.argmax()) * 16000 / back.numel() == pytest.approx(440.0, rel=0.06)


def test_a_length_that_cannot_be_averaged_names_the_next_that_can():
    with pytest.raises(ShapeError, match="the next that fits: 10240"):
        coarse().encode(torch.zeros(1, 1, 8192 + 256))
