"""Sounds become latents of unit variance and come back through a vocoder."""

from __future__ import annotations

import pytest
import torch
from audio.tones import chord
from pydantic import ValidationError

from lumina_audio.audio_io import limit_peak
from lumina_audio.autoencoders.mel_autoencoder import MelAutoencoder
from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.vocoders.griffin_lim import GriffinLim
from lumina_audio.vocoders.vocos import Vocos
from lumina_core.errors import ConfigError, ShapeError

SMALL = VAEConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, latent_channels=8)


def autoencoder(**options: object) -> MelAutoencoder:
    torch.manual_seed(0)
    vocoder = GriffinLim(GriffinLim.Config(n_iter=2))
    return MelAutoencoder(MelAutoencoder.Config(vae=SMALL, mel_mean=-6, mel_std=3.5, **options), vocoder)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(item) for item in range(count)]


def test_a_latent_frame_stands_for_512_samples():
    part = autoencoder().eval()
    latent = part.encode(chord())
    assert latent.shape == (2, 8, 16)
    assert part.decode(latent).shape == (2, 1, 8192)


def test_what_would_be_too_loud_is_softer_as_a_whole_and_the_rest_stays():
    sounds = torch.tensor([[[0.5, -4.0, 2.0]], [[0.5, -0.25, 1.0]], [[0.0, 0.0, 0.0]]])
    found = limit_peak(sounds)
    assert torch.equal(found, torch.tensor([[[0.125, -1.0, 0.5]], [[0.5, -0.25, 1.0]], [[0.0, 0.0, 0.0]]]))
    part = autoencoder().eval().requires_grad_(False)
    latent, vocoder = part.encode(chord()), part.vocoder
    plain = part.decode(latent)
    part.vocoder = lambda mel: 1000 * vocoder(mel)
    assert torch.allclose(part.decode(latent), plain / plain.abs().amax(dim=(1, 2), keepdim=True), atol=1e-6)


def test_training_brings_the_spectrogram_back_and_the_latent_to_unit_variance():
    part, data = autoencoder(kl_weight=1e-4), chord()
    optimizer = torch.optim.AdamW(part.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = part.loss(data, generators(2))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.5 * losses[0]
    latent = part.eval().encode(data).detach()
    assert 0.7 < float(latent.std()) < 1.4 and abs(float(latent.mean())) < 0.3


def test_a_training_may_look_at_a_crop_of_each_sound_drawn_for_it_alone():
    part, data = autoencoder(crop=4096).eval(), chord()
    with torch.no_grad():
        both = float(part.loss(data, generators(2)).total)
        alone = [float(part.loss(data[k : k + 1], generators(2)[k : k + 1]).total) for k in range(2)]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_an_item_is_encoded_alike_alone_and_in_a_batch():
    part, data = autoencoder().eval(), chord()
    assert torch.allclose(part.encode(data)[1:], part.encode(data[1:]), atol=1e-5)


def test_a_length_that_cannot_be_encoded_names_the_next_that_can():
    with pytest.raises(ShapeError, match="the next that fits: 8704"):
        autoencoder().encode(torch.zeros(1, 1, 8192 + 256))


def test_a_vocoder_of_another_rate_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"sample_rate 22050.*autoencoder\.vocoder\.sample_rate"):
        MelAutoencoder(MelAutoencoder.Config(vae=SMALL), Vocos(Vocos.Config(sample_rate=22050)))


def test_time_is_halved_only_between_levels():
    with pytest.raises(ValidationError, match="time is halved between levels"):
        VAEConfig(ch_mult=(1, 2), down_layers=(1,))
