"""Tuning of a vocoder's output to the pitch of its spectrogram."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_audio.autoencoders.light_vae import LightVAEConfig
from lumina_audio.autoencoders.mel_autoencoder import MelAutoencoder
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.metrics.tuning import track_pitch
from lumina_audio.vocoders.griffin_lim import GriffinLim
from lumina_audio.vocoders.harmonics import fundamental_track, tune_to_mel
from lumina_audio.vocoders.loss import stft_loss

MEL = MelSpectrogram(MelConfig(min_amplitude=1e-4))
FINE = MelSpectrogram(MelConfig(n_fft=2048, n_mels=160, min_amplitude=1e-4))


def steady(hertz: float, samples: int = 16384) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    partials = [n for n in range(1, 25) if n * hertz < 7800]
    return (0.3 * torch.stack([torch.sin(2 * math.pi * hertz * n * time + n) / n for n in partials]).sum(0))[None, None]


def cents(first: float, second: float) -> float:
    return abs(1200 * math.log2(first / second))


@pytest.mark.parametrize(
    ("transform", "hertz"),
    [(MEL, 98.0), (MEL, 146.8), (MEL, 311.1), (MEL, 466.2), (MEL, 880.0), (FINE, 41.2), (FINE, 55.0), (FINE, 220.0)],
)
def test_fundamental_of_a_tone_is_found_within_ten_cents(transform, hertz):
    found, is_harmonic = fundamental_track(transform(steady(hertz)), transform)
    assert float(is_harmonic.float().mean()) > 0.9
    assert cents(float(found[is_harmonic].median()), hertz) < 10


def test_noise_and_silence_are_not_harmonic_and_unchanged():
    noise = 0.1 * torch.randn(1, 1, 16384, generator=torch.Generator().manual_seed(0))
    for wave in (noise, torch.zeros(1, 1, 16384)):
        mel = MEL(wave)
        assert float(fundamental_track(mel, MEL)[1].float().mean()) < 0.1
        assert torch.equal(tune_to_mel(wave, mel, MEL)[..., :1024], wave[..., :1024])


@pytest.mark.parametrize("hertz", [98.0, 220.0, 466.2])
def test_detuned_tone_is_tuned(hertz):
    real, detuned = steady(hertz), steady(1.03 * hertz)
    tuned = tune_to_mel(detuned, MEL(real), MEL)
    note = 69 + 12 * math.log2(hertz / 440)
    assert 100 * abs(float(track_pitch(detuned).note()) - note) > 40
    assert 100 * abs(float(track_pitch(tuned).note()) - note) < 10
    assert float(stft_loss(tuned, real)) < 0.75 * float(stft_loss(detuned, real))


def test_items_of_a_batch_do_not_depend_on_each_other():
    waves = torch.cat([steady(220.0), steady(330.0), 0.1 * torch.randn(1, 1, 16384)])
    mel = MEL(waves)
    together = tune_to_mel(waves, mel, MEL)
    for n in range(2):
        alone = tune_to_mel(waves[n : n + 1], mel[n : n + 1], MEL)
        assert torch.allclose(alone[0], together[n], atol=1e-4)


def test_sines_begin_with_the_attack():
    real = steady(220.0)
    real[..., :8192] = 0
    tuned = tune_to_mel(real, MEL(real), MEL)
    assert float(tuned[..., :7600].abs().max()) < 0.01 * float(real.abs().max())
    assert float(tuned[..., 9000:].std()) == pytest.approx(float(real[..., 9000:].std()), rel=0.15)


def test_the_autoencoder_tunes_if_configured():
    torch.manual_seed(0)
    vocoder = GriffinLim(GriffinLim.Config(n_iter=2))
    options = {
        "light_vae": LightVAEConfig(latent_channels=4, hidden_size=16, num_layers=0),
        "mel_mean": -6,
        "mel_std": 3.5,
    }
    plain, tuning = (
        MelAutoencoder(MelAutoencoder.Config(**options, tune_harmonics=enabled), vocoder).eval()
        for enabled in (False, True)
    )
    mel = MEL(steady(220.0))
    for part in (plain, tuning):
        part.to_mel = lambda latent: mel  # an autoencoder without error
    latent = torch.zeros(1, 4, 32)
    notes = [float(track_pitch(part.decode(latent)).note()) for part in (plain, tuning)]
    assert abs(notes[1] - 57) < 0.1
    assert not torch.equal(plain.decode(latent), tuning.decode(latent))
