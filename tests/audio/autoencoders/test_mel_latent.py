"""Mel spectrogram, averaged over time, as the latent."""

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


def test_latent_is_the_mean_of_eight_frames():
    settings = MelConfig(min_amplitude=1e-4)
    mel = (MelSpectrogram(settings)(chord()) + 6.0) / 3.5
    assert torch.allclose(coarse().encode(chord())[..., 0], mel[..., :8].mean(-1), atol=1e-5)


def test_decoding_keeps_the_frequency_of_a_tone():
    part = coarse()
    back = part.decode(part.encode(tone(440.0, partials=1)[None]))
    spectrum = torch.fft.rfft(back.flatten()).abs()
    assert float(spectrum.argmax()) * 16000 / back.numel() == pytest.approx(440.0, rel=0.06)


def test_error_for_a_length_names_the_next_valid_one():
    with pytest.raises(ShapeError, match="such as 10240"):
        coarse().encode(torch.zeros(1, 1, 8192 + 256))
