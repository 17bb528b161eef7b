"""Vocoder of sines with integrated phases and noise."""

from __future__ import annotations

import math

import pytest
import torch
from audio.tones import chord

from lumina_audio.autoencoders.light_vae import LightVAEConfig
from lumina_audio.autoencoders.mel_autoencoder import MelAutoencoder
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.metrics.tuning import track_pitch
from lumina_audio.vocoders.contract_check import check_vocoder
from lumina_audio.vocoders.loss import stft_loss
from lumina_audio.vocoders.sines_and_noise import SineParameters, SinesAndNoise, band_energy_distance

SMALL = SinesAndNoise.Config(hidden_size=32, intermediate_size=64, num_layers=2)
MEL = MelConfig(n_fft=2048, n_mels=160, min_amplitude=1e-4)


def steady(hertz: float, samples: int = 16384) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    partials = [n for n in range(1, 25) if n * hertz < 7800]
    return (0.3 * torch.stack([torch.sin(2 * math.pi * hertz * n * time + n) / n for n in partials]).sum(0))[None]


def true_parameters(vocoder: SinesAndNoise, wave: torch.Tensor) -> SineParameters:
    """Parameters that a perfect network would predict."""
    spectrum = vocoder._true_spectrum(wave)
    advance = torch.zeros(spectrum.shape)
    turned = (spectrum[:, 1:] * spectrum[:, :-1].conj()).angle() - vocoder._center_advance(wave.device)
    advance[:, 1:] = turned
    batch, frames, _ = spectrum.shape
    return SineParameters(
        spectrum.abs().clamp_min(1e-6).log(),
        advance,
        torch.full_like(advance, -3.0),
        torch.ones(batch, frames, vocoder.config.points),
        torch.zeros(batch, frames, vocoder.config.points, vocoder.num_noise_bins),
    )


def test_contract():
    torch.manual_seed(0)
    check_vocoder(SinesAndNoise(SMALL).eval())


@pytest.mark.parametrize("hertz", [41.2, 55.0, 110.0, 233.1, 698.5, 1975.5])
def test_true_parameters_give_a_tone_within_two_cents(hertz):
    vocoder, wave = SinesAndNoise(SMALL), steady(hertz)[None]
    parameters = true_parameters(vocoder, wave)
    made = vocoder.synthesize(parameters, vocoder.integrate(parameters), vocoder._noise(64, wave.device))
    error = 100 * (track_pitch(made).note() - (69 + 12 * math.log2(hertz / 440)))
    assert float(error.abs()) < 2
    assert float(stft_loss(made, wave)) < 1


def test_chord_keeps_both_notes():
    vocoder, wave = SinesAndNoise(SMALL), (steady(220.0) + steady(277.2))[None] / 2
    parameters = true_parameters(vocoder, wave)
    made = vocoder.synthesize(parameters, vocoder.integrate(parameters), vocoder._noise(64, wave.device))
    before, after = (torch.fft.rfft(sound[0, 0] * torch.hann_window(16384)).abs() for sound in (wave, made))
    for hertz in (220.0, 277.2, 440.0, 554.4):
        near = slice(round(hertz * 16384 / 16000) - 6, round(hertz * 16384 / 16000) + 7)
        assert int(before[near].argmax()) == int(after[near].argmax())


def test_unpredictable_bins_are_silent():
    vocoder, wave = SinesAndNoise(SMALL), steady(220.0)[None]
    known = true_parameters(vocoder, wave)
    parameters = SineParameters(
        known.log_magnitude, known.advance, torch.full_like(known.log_error, 0.5), known.gain, known.noise
    )
    made = vocoder.synthesize(parameters, vocoder.integrate(parameters), vocoder._noise(64, wave.device))
    assert float(made.abs().max()) == 0


def test_gain_follows_points_within_a_frame():
    vocoder, wave = SinesAndNoise(SMALL), steady(440.0)[None]
    known = true_parameters(vocoder, wave)
    gain = known.gain.clone()
    gain[:, :32] = 0
    parameters = SineParameters(known.log_magnitude, known.advance, known.log_error, gain, known.noise)
    made = vocoder.synthesize(parameters, vocoder.integrate(parameters), vocoder._noise(64, wave.device))[0, 0]
    assert float(made[: 32 * 256 - 64].abs().max()) == 0
    assert float(made[32 * 256 + 64 :].abs().max()) > 0.1


def test_training_reduces_the_loss_of_both_parts():
    torch.manual_seed(0)
    config = MelAutoencoder.Config(
        mel=MEL, light_vae=LightVAEConfig(latent_channels=8, hidden_size=16, num_layers=1), train_target="both",
        mel_mean=-6, mel_std=3.5,
    )  # fmt: skip
    part, data = MelAutoencoder(config, SinesAndNoise(SMALL)), chord(8192)
    optimizer = torch.optim.AdamW(part.parameters(), lr=4e-3)
    losses = []
    for _ in range(25):
        loss = part.loss(data, [torch.Generator().manual_seed(k) for k in range(2)])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert {"l1", "phase", "energy"} <= set(loss.terms)
    assert all(weight.grad is not None for weight in part.vae.decoder.parameters())


def test_loss_is_the_same_with_the_same_generators():
    torch.manual_seed(0)
    vocoder, data = SinesAndNoise(SMALL), chord(8192)
    mel = MelSpectrogram(MEL)(data)
    first, second = (
        float(vocoder.loss(mel, data, [torch.Generator().manual_seed(k) for k in range(2)]).total.detach())
        for _ in range(2)
    )
    assert first == second


def test_energy_distance_is_0_at_the_right_level_of_noise():
    noise = [0.1 * torch.randn(1, 1, 16384, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    right, wrong = (float(band_energy_distance(level * noise[0], noise[1])) for level in (1.0, 0.5))
    assert float(band_energy_distance(noise[0], noise[0])) == 0
    assert right < 0.5 * wrong


def test_muon_does_not_train_the_output_layers():
    vocoder = SinesAndNoise(SMALL)
    assert vocoder.no_muon() <= {name for name, _ in vocoder.named_parameters()}
