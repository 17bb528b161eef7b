"""Sounds <-> latents of unit variance: a log-mel spectrogram, its autoencoder, and a vocoder for the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.audio_io import limit_peak
from lumina_audio.autoencoders.light_vae import LightVAE, LightVAEConfig
from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.mel import MelConfig, MelSpectrogram, refine_to_mel
from lumina_audio.vocoders.loss import vocoder_loss
from lumina_audio.vocoders.protocol import Vocoder
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.protocols import Autoencoder
from lumina_core.types import Loss, check_shape


class MelAutoencoder(nn.Module, Autoencoder):
    """What every model of sound here works in. The spectrogram's autoencoder and the vocoder are trained apart.

    The latent is the mean that the autoencoder foretells, brought to zero mean and unit variance a channel: by running
    figures kept with the weights, as `loss` sees them.
    """

    class Config(Settings):
        """The spectrogram, the sizes of its autoencoder, the vocoder, and what training weighs."""

        mel: MelConfig = Field(MelConfig(), description="how spectrograms are made")
        vae: VAEConfig = Field(VAEConfig(), description="sizes of the autoencoder, as published")
        light_vae: LightVAEConfig | None = Field(None, description="sizes of the light autoencoder, in its place")
        mel_mean: float = Field(0.0, description="taken from a spectrogram before it is encoded")
        mel_std: float = Field(1.0, gt=0, description="what is left is divided by it")
        kl_weight: float = Field(1e-4, ge=0, description="weight of the divergence from a normal distribution")
        gradient_weight: float = Field(
            1.0, ge=0, description="weight of differences between neighbours in time and in pitch"
        )
        vocoder: ComponentSpec = Field(ComponentSpec(type="audio.griffin_lim"), description="spectrogram -> sound")
        refine_steps: int = Field(
            0, ge=0, le=64, description="rounds that bring a vocoder's sound nearer to its spectrogram, once trained"
        )
        train_target: Literal["spectrogram", "vocoder"] = Field(
            "spectrogram", description="what a training teaches: the spectrogram's autoencoder, or the vocoder"
        )
        crop: int | None = Field(
            None, ge=2048, description="samples that a training looks at, drawn from each sound; None: all of it"
        )
        reconstructed_prob: float = Field(
            0.5, ge=0, le=1, description="share of spectrograms that a vocoder is taught with after encoding"
        )

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        self.config = config
        vae_config = config.vae if config.light_vae is None else config.light_vae
        self.mel = MelSpectrogram(config.mel)
        self.vae = (
            VAE(vae_config, config.mel.n_mels)
            if isinstance(vae_config, VAEConfig)
            else LightVAE(vae_config, config.mel.n_mels)
        )
        self.vocoder: Any = vocoder
        self._check_vocoder()
        self.channels = vae_config.latent_channels
        self.downsample_factor = (config.mel.hop_length * vae_config.downsample_factor,)
        self.fixed_task_options = {"sample_rate": config.mel.sample_rate}
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("variance", torch.ones(self.channels))
        self.mean: Tensor
        self.variance: Tensor

    def encode(self, data: Tensor) -> Tensor:
        """(B, 1, S) in [-1, 1] -> (B, channels, S / stride) of zero mean and unit variance.

        Raises:
            ShapeError: S is no multiple of the stride.
        """
        return F.batch_norm(self.posterior(self.spectrogram(data))[0], self.mean, self.variance)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, T) -> (B, 1, T * stride) in [-1, 1]: what would be louder is softer as a whole."""
        mel = self.to_mel(latent)
        return limit_peak(refine_to_mel(self.vocoder(mel), mel, self.mel, self.config.refine_steps))

    def to_mel(self, latent: Tensor) -> Tensor:
        """(B, channels, T) of unit variance -> the natural log-mel spectrogram (B, bands, T * stride / hop)."""
        check_shape(latent, (None, self.channels, None), "a batch of latents")
        scale = (self.variance + 1e-5).sqrt()[:, None]
        return self._to_natural_log(self.vae.decode(latent * scale + self.mean[:, None]))

    def spectrogram(self, data: Tensor) -> Tensor:
        """(B, 1, S) -> (B, bands, S / hop), the logarithm as set."""
        check_shape(data, (None, 1, None), "a batch of sounds")
        length, stride = data.shape[-1], self.downsample_factor[0]
        if length % stride:
            raise ShapeError(
                f"a sound of {length} samples cannot be encoded: wanted a multiple of {stride}; "
                f"the next that fits: {-(-length // stride) * stride}"
            )
        mel: Tensor = self.mel(data)
        return mel

    def posterior(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) -> mean and log-variance of the latent, as the autoencoder has them."""
        return self.vae.encode((mel - self.config.mel_mean) / self.config.mel_std)

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """What is missed on the way back, of the spectrogram or of the sound, as `taught` says.

        Args:
            data: (B, 1, S) in [-1, 1].
            generators: of what is drawn at random, one an item, on the CPU.

        Raises:
            ConfigError: a vocoder is to be taught that has no weights.
        """
        loss = self._spectrogram_loss if self.config.train_target == "spectrogram" else self._vocoder_loss
        return loss(self._crop(data, generators), generators)

    def _crop(self, data: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        crop, stride = self.config.crop, self.downsample_factor[0]
        if crop is None or crop >= data.shape[-1]:
            return data
        num_starts = (data.shape[-1] - crop) // stride + 1
        starts = [int(torch.randint(num_starts, (), generator=generator)) * stride for generator in generators]
        return torch.stack([item[:, start : start + crop] for item, start in zip(data, starts, strict=True)])

    def _spectrogram_loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Errors of the spectrogram and of its differences between neighbours, and the divergence of the latent.

        Also moves the running mean and variance of the latent.
        """
        real = (self.spectrogram(data) - self.config.mel_mean) / self.config.mel_std
        mean, log_variance = self.vae.encode(real)
        F.batch_norm(mean.detach().float(), self.mean, self.variance, training=True, momentum=0.05)
        noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators]).to(mean)
        error = (self.vae.decode(mean + (log_variance / 2).exp() * noise) - real).float()
        gradient = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
        absolute, squared = error.abs().mean(), error.square().mean()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).float().mean() / 2
        total = absolute + squared + self.config.gradient_weight * gradient + self.config.kl_weight * kl
        terms = {"l1": absolute, "mse": squared, "gradient": gradient, "kl": kl}
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _vocoder_loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """A share of the spectrograms is encoded first, so that the vocoder knows what it will be handed.

        That is our own proposal.
        """
        if not isinstance(self.vocoder, nn.Module):
            raise ConfigError(f"{self.config.vocoder.type} has no weights to teach; take audio.vocos or audio.bigvgan")
        use_reconstruction = (
            torch.stack([torch.rand((), generator=generator) for generator in generators])
            < self.config.reconstructed_prob
        )
        with torch.no_grad():
            mel = self.spectrogram(data)
            reconstructed = self.to_mel(self.encode(data)) if bool(use_reconstruction.any()) else mel
            vocoder_input = torch.where(
                use_reconstruction.to(mel.device)[:, None, None], reconstructed, mel / self.config.mel.log_scale
            )
        return vocoder_loss(self.vocoder(vocoder_input), data, self.mel, mel_weight=0.5)

    def _to_natural_log(self, normalized: Tensor) -> Tensor:
        return (normalized * self.config.mel_std + self.config.mel_mean) / self.config.mel.log_scale

    def _check_vocoder(self) -> None:
        expected_options = {
            "sample_rate": self.config.mel.sample_rate,
            "n_mels": self.config.mel.n_mels,
            "hop_length": self.config.mel.hop_length,
        }
        for name, expected in expected_options.items():
            actual = getattr(self.vocoder, name)
            if actual != expected:
                raise ConfigError(
                    f"{self.config.vocoder.type} reads spectrograms of {name} {actual}, and these are of {name} {expected}; "
                    f"give both the same: autoencoder.mel.{name} and autoencoder.vocoder.{name}"
                )
