"""Autoencoder of audio: log-mel spectrogram, VAE of spectrograms, and vocoder."""

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
from lumina_audio.vocoders.harmonics import tune_to_mel
from lumina_audio.vocoders.loss import vocoder_loss
from lumina_audio.vocoders.protocol import SupportsVocoderLoss, Vocoder, check_vocoder_matches
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.protocols import Autoencoder
from lumina_core.types import Loss, check_shape


class MelAutoencoder(nn.Module, Autoencoder):
    """Waveform (B, 1, S) <-> latent (B, channels, S / downsample_factor) of zero mean and unit variance.

    The latent is the mean of the VAE, normalized per channel by running statistics, which training updates and the
    weights include. VAE and vocoder are trained in separate runs or together.
    """

    class Config(Settings):
        """Spectrogram, VAE, vocoder, and training."""

        mel: MelConfig = Field(MelConfig(), description="spectrogram")
        vae: VAEConfig = Field(VAEConfig(), description="sizes of the published VAE")
        light_vae: LightVAEConfig | None = Field(None, description="sizes of the light VAE, which replaces `vae`")
        mel_mean: float = Field(0.0, description="mean that is subtracted from the spectrogram")
        mel_std: float = Field(1.0, gt=0, description="standard deviation that the spectrogram is divided by")
        kl_weight: float = Field(1e-4, ge=0, description="weight of the KL divergence from a normal distribution")
        gradient_weight: float = Field(1.0, ge=0, description="weight of errors of differences over time and frequency")
        vocoder: ComponentSpec = Field(ComponentSpec(type="audio.griffin_lim"), description="spectrogram -> waveform")
        tune_harmonics: bool = Field(
            False, description="synthesize harmonic sounds again at the pitch that the spectrogram shows"
        )
        refine_steps: int = Field(
            0, ge=0, le=64, description="steps that bring the output of the vocoder closer to its spectrogram"
        )
        train_target: Literal["spectrogram", "vocoder", "both"] = Field(
            "spectrogram", description="trained part: the VAE of spectrograms, the vocoder, or both together"
        )
        crop: int | None = Field(None, ge=2048, description="samples of a random training crop; null: the full clip")
        reconstructed_prob: float = Field(
            0.5, ge=0, le=1, description="share of spectrograms that pass through the VAE before they train the vocoder"
        )

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        check_vocoder_matches(vocoder, config.mel, config.vocoder.type)
        self.config = config
        self.mel = MelSpectrogram(config.mel)
        self.vae: VAE | LightVAE
        if config.light_vae is None:
            self.vae = VAE(config.vae, config.mel.n_mels)
        else:
            self.vae = LightVAE(config.light_vae, config.mel.n_mels)
        self.vocoder: Any = vocoder
        self.channels = self.vae.config.latent_channels
        self.downsample_factor = (config.mel.hop_length * self.vae.config.downsample_factor,)
        self.fixed_task_options = {"sample_rate": config.mel.sample_rate}
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("variance", torch.ones(self.channels))
        self.mean: Tensor
        self.variance: Tensor

    def encode(self, data: Tensor) -> Tensor:
        """Map (B, 1, S) in [-1, 1] to a normalized latent (B, channels, S / downsample_factor).

        Raises:
            ShapeError: S is no multiple of the downsample factor.
        """
        return F.batch_norm(self.posterior(self.spectrogram(data))[0], self.mean, self.variance).to(data.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Map (B, channels, T) to (B, 1, T * downsample_factor) in [-1, 1], each item divided by a peak beyond 1."""
        mel = self.to_mel(latent)
        waveform = self.vocoder(mel)
        if self.config.tune_harmonics:
            waveform = tune_to_mel(waveform.float(), mel, self.mel)
        return limit_peak(refine_to_mel(waveform, mel, self.mel, self.config.refine_steps))

    def to_mel(self, latent: Tensor) -> Tensor:
        """Decode a normalized latent (B, channels, T) to natural log-mel (B, n_mels, T * downsample_factor / hop)."""
        check_shape(latent, (None, self.channels, None), "a batch of latents")
        scale = (self.variance + 1e-5).sqrt()[:, None]
        # the dtype of the weights may be narrower than the latent's
        mel = self.vae.decode((latent * scale + self.mean[:, None]).to(self.mean.dtype)).to(latent.dtype)
        return (mel * self.config.mel_std + self.config.mel_mean) / self.config.mel.log_scale

    def spectrogram(self, data: Tensor) -> Tensor:
        """Compute the log-mel spectrogram (B, n_mels, S / hop), in the configured log base, of (B, 1, S)."""
        check_shape(data, (None, 1, None), "a batch of waveforms")
        check_length(data, self.downsample_factor[0])
        mel: Tensor = self.mel(data)
        return mel

    def posterior(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a spectrogram (B, n_mels, T) to mean and log-variance of the latent, not normalized."""
        return self.vae.encode(((mel - self.config.mel_mean) / self.config.mel_std).to(self.mean.dtype))

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the reconstruction loss of the spectrogram or of the waveform, by `train_target`.

        Args:
            data: (B, 1, S) in [-1, 1].
            generators: one per item, on the CPU.

        Raises:
            ConfigError: the vocoder to be trained has no weights.
        """
        crop = self._crop(data, generators)
        if self.config.train_target == "spectrogram":
            return self._spectrogram_loss(crop, generators)[0]
        if self.config.train_target == "vocoder":
            return self._vocoder_loss(crop, generators)
        # the gradient of the vocoder's loss tells the VAE which differences are heard
        spectrogram_loss, decoded = self._spectrogram_loss(crop, generators)
        loss = self._vocoder_loss(crop, generators, decoded)
        return Loss(spectrogram_loss.total + loss.total, {**spectrogram_loss.terms, **loss.terms})

    def _crop(self, data: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        crop, stride = self.config.crop, self.downsample_factor[0]
        if crop is None or crop >= data.shape[-1]:
            return data
        num_starts = (data.shape[-1] - crop) // stride + 1
        starts = [int(torch.randint(num_starts, (), generator=generator)) * stride for generator in generators]
        return torch.stack([item[:, start : start + crop] for item, start in zip(data, starts, strict=True)])

    def _spectrogram_loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> tuple[Loss, Tensor]:
        """Compute errors of the spectrogram and its differences and the KL divergence; update running statistics.

        Returns:
            The loss, and the decoded natural log-mel (B, n_mels, T).
        """
        real = (self.spectrogram(data) - self.config.mel_mean) / self.config.mel_std
        mean, log_variance = self.vae.encode(real)
        F.batch_norm(mean.detach().float(), self.mean, self.variance, training=True, momentum=0.05)
        noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators]).to(mean)
        decoded = self.vae.decode(mean + (log_variance / 2).exp() * noise)
        error = (decoded - real).float()
        gradient = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
        absolute, squared = error.abs().mean(), error.square().mean()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).float().mean() / 2
        total = absolute + squared + self.config.gradient_weight * gradient + self.config.kl_weight * kl
        terms = {"l1": absolute, "mse": squared, "gradient": gradient, "kl": kl}
        natural = (decoded.float() * self.config.mel_std + self.config.mel_mean) / self.config.mel.log_scale
        return Loss(total, {name: value.detach() for name, value in terms.items()}), natural

    def _vocoder_loss(self, data: Tensor, generators: Sequence[torch.Generator], decoded: Tensor | None = None) -> Loss:
        """Compute the vocoder's loss on spectrograms of which a share passed through the VAE.

        The vocoder is thereby trained on the inputs that it has in generation. Our own. A vocoder with a method `loss`
        has a loss of its own.

        Args:
            data: (B, 1, S).
            generators: one per item, on the CPU.
            decoded: natural log-mel (B, n_mels, T) that passed through the VAE, with its gradient; None: computed.
        """
        if not isinstance(self.vocoder, nn.Module):
            raise ConfigError(
                f"autoencoder.vocoder: got {self.config.vocoder.type}, expected a vocoder with weights to train, such "
                "as audio.vocos or audio.bigvgan"
            )
        draws = torch.stack([torch.rand((), generator=generator) for generator in generators])
        is_reconstructed = draws < self.config.reconstructed_prob
        with torch.no_grad():
            mel = self.spectrogram(data)
            if decoded is None:
                decoded = self.to_mel(self.encode(data)) if bool(is_reconstructed.any()) else mel
            mask = is_reconstructed.to(mel.device)[:, None, None]
        vocoder_input = torch.where(mask, decoded, mel / self.config.mel.log_scale)
        if isinstance(self.vocoder, SupportsVocoderLoss):
            return self.vocoder.loss(vocoder_input, data, generators)
        return vocoder_loss(self.vocoder(vocoder_input), data, self.mel, mel_weight=0.5)


def check_length(data: Tensor, multiple: int) -> None:
    """Raise ShapeError unless the number of samples of (B, 1, S) is a multiple."""
    length = data.shape[-1]
    if length % multiple:
        raise ShapeError(
            f"audio to encode: got {length} samples, expected a multiple of {multiple}, such as "
            f"{-(-length // multiple) * multiple}"
        )
