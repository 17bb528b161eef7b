"""Vocoders Griffin-Lim and Vocos, and the STFT distances."""

from __future__ import annotations

import pytest
import torch
from audio.tones import chord, tone

from lumina_audio.autoencoders.mel_autoencoder import MelAutoencoder
from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.griffin_lim import GriffinLim
from lumina_audio.vocoders.loss import stft_loss, stft_losses
from lumina_audio.vocoders.vocos import Vocos
from lumina_core.errors import ConfigError

SMALL = Vocos.Config(hidden_size=32, intermediate_size=64, num_layers=2)


def loudest(sound: torch.Tensor) -> float:
    """Hz of the strongest frequency."""
    spectrum = torch.fft.rfft(sound.flatten()).abs()
    return float(spectrum.argmax()) * 16000 / sound.numel()


@pytest.mark.parametrize("hertz", [220.0, 440.0, 880.0])
def test_griffin_lim_keeps_the_frequency_of_a_tone(hertz):
    mel = MelSpectrogram(MelConfig())(tone(hertz, partials=1)[None])
    assert loudest(GriffinLim(GriffinLim.Config())(mel)) == pytest.approx(hertz, rel=0.06)


def test_griffin_lim_improves_with_iterations():
    sound = chord()
    mel = MelSpectrogram(MelConfig())(sound)
    short, long = (stft_loss(GriffinLim(GriffinLim.Config(n_iter=n))(mel), sound).mean() for n in (1, 48))
    assert float(long) < float(short)


def test_griffin_lim_does_not_change_the_global_random_state():
    mel = MelSpectrogram(MelConfig())(tone(300.0)[None])
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    GriffinLim(GriffinLim.Config(n_iter=1))(mel)
    assert torch.equal(torch.rand(1), expected)


def test_stft_distance_is_0_for_equal_audio_and_grows_with_noise():
    sound = chord()
    noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stft_loss(sound, sound), torch.zeros(2))
    little, much = (stft_loss(sound + level * noise, sound).mean() for level in (0.01, 0.1))
    assert 0 < float(little) < float(much)


def test_half_the_amplitude_has_a_spectral_convergence_of_one_half():
    sound = chord()
    share, _ = stft_losses(0.5 * sound, sound)
    assert torch.allclose(share, torch.full((2,), 0.5), atol=1e-3)


def vocoder_training(vocoder: object) -> MelAutoencoder:
    vae = VAEConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, latent_channels=8)
    return MelAutoencoder(MelAutoencoder.Config(vae=vae, train_target="vocoder"), vocoder).eval()


def test_training_a_vocoder_reduces_its_loss_and_does_not_train_the_vae():
    torch.manual_seed(0)
    part, data = vocoder_training(Vocos(SMALL)), chord(4096)
    optimizer = torch.optim.AdamW(part.vocoder.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = part.loss(data, [torch.Generator().manual_seed(k) for k in range(2)])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.75 * losses[0]
    assert all(weight.grad is None for weight in part.vae.parameters())


def test_training_a_vocoder_without_weights_is_refused():
    with pytest.raises(ConfigError, match=r"got audio\.griffin_lim, expected a vocoder with weights"):
        vocoder_training(GriffinLim(GriffinLim.Config())).loss(chord(4096), [torch.Generator()] * 2)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("hop", [128, 512])
def test_griffin_lim_accepts_the_shortest_clips(frames, hop):
    generated = GriffinLim(GriffinLim.Config(hop_length=hop, n_iter=2))(torch.full((2, 80, frames), -3.0))
    assert generated.shape == (2, 1, frames * hop) and bool(generated.isfinite().all())


def test_muon_does_not_train_the_output_layer_of_vocos():
    vocos = Vocos(Vocos.Config(hidden_size=8, intermediate_size=8, num_layers=1))
    assert vocos.no_muon() == {"head.weight"} <= {name for name, _ in vocos.named_parameters()}
