"""Autoencoder of audio: shapes, training, normalization, errors."""

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


def test_latent_frame_is_512_samples():
    part = autoencoder().eval()
    latent = part.encode(chord())
    assert latent.shape == (2, 8, 16)
    assert part.decode(latent).shape == (2, 1, 8192)


def test_decoded_audio_beyond_full_scale_is_divided_by_its_peak():
    sounds = torch.tensor([[[0.5, -4.0, 2.0]], [[0.5, -0.25, 1.0]], [[0.0, 0.0, 0.0]]])
    found = limit_peak(sounds)
    assert torch.equal(found, torch.tensor([[[0.125, -1.0, 0.5]], [[0.5, -0.25, 1.0]], [[0.0, 0.0, 0.0]]]))
    part = autoencoder().eval().requires_grad_(False)
    latent, vocoder = part.encode(chord()), part.vocoder
    plain = part.decode(latent)
    part.vocoder = lambda mel: 1000 * vocoder(mel)
    assert torch.allclose(part.decode(latent), plain / plain.abs().amax(dim=(1, 2), keepdim=True), atol=1e-6)


def test_training_reduces_the_loss_and_normalizes_the_latent():
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


def test_random_crop_of_an_item_does_not_depend_on_the_batch():
    part, data = autoencoder(crop=4096).eval(), chord()
    with torch.no_grad():
        both = float(part.loss(data, generators(2)).total)
        alone = [float(part.loss(data[k : k + 1], generators(2)[k : k + 1]).total) for k in range(2)]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_encoding_does_not_depend_on_the_batch():
    part, data = autoencoder().eval(), chord()
    assert torch.allclose(part.encode(data)[1:], part.encode(data[1:]), atol=1e-5)


def test_error_for_a_length_names_the_next_valid_one():
    with pytest.raises(ShapeError, match="such as 8704"):
        autoencoder().encode(torch.zeros(1, 1, 8192 + 256))


def test_vocoder_of_another_sample_rate_is_refused():
    with pytest.raises(
        ConfigError, match=r"sample_rate of vocoder .*: got 22050, expected 16000.*autoencoder\.vocoder\.sample_rate"
    ):
        MelAutoencoder(MelAutoencoder.Config(vae=SMALL), Vocos(Vocos.Config(sample_rate=22050)))


def test_downsampling_after_the_last_level_is_refused():
    with pytest.raises(ValidationError, match="down_layers: got level 1"):
        VAEConfig(ch_mult=(1, 2), down_layers=(1,))
