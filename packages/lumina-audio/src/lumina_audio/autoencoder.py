"""Sounds <-> latents of unit variance: a log-mel spectrogram, its autoencoder, and a vocoder for the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.full_scale import within_full_scale
from lumina_audio.light_vae import LightSettings, LightVae
from lumina_audio.matched import matched
from lumina_audio.mel import Mel, MelSettings
from lumina_audio.vae import Vae
from lumina_audio.vae_settings import VaeSettings
from lumina_audio.vocoders.contract import Vocoder
from lumina_audio.vocoding import vocoding_loss
from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.types import Loss, check_shape


class MelAutoencoder(nn.Module):
    """What every model of sound here works in. The spectrogram's autoencoder and the vocoder are trained apart.

    The latent is the mean that the autoencoder foretells, brought to zero mean and unit variance a channel: by running
    figures kept with the weights, as `loss` sees them.
    """

    class Config(Settings):
        """The spectrogram, the sizes of its autoencoder, the vocoder, and what training weighs."""

        mel: MelSettings = Field(MelSettings(), description="how spectrograms are made")
        vae: VaeSettings = Field(VaeSettings(), description="sizes of the autoencoder, as published")
        light: LightSettings | None = Field(None, description="sizes of the light autoencoder, in its place")
        centre: float = Field(0.0, description="taken from a spectrogram before it is encoded")
        spread: float = Field(1.0, gt=0, description="what is left is divided by it")
        divergence: float = Field(1e-4, ge=0, description="weight of the divergence from a normal distribution")
        edges: float = Field(1.0, ge=0, description="weight of differences between neighbours in time and in pitch")
        vocoder: Use = Field(Use(use="audio.griffin_lim"), description="spectrogram -> sound")
        matched: int = Field(
            0, ge=0, le=64, description="rounds that bring a vocoder's sound nearer to its spectrogram, once trained"
        )
        taught: Literal["spectrogram", "vocoder"] = Field(
            "spectrogram", description="what a training teaches: the spectrogram's autoencoder, or the vocoder"
        )
        crop: int | None = Field(
            None, ge=2048, description="samples that a training looks at, drawn from each sound; None: all of it"
        )
        encoded: float = Field(
            0.5, ge=0, le=1, description="share of spectrograms that a vocoder is taught with after encoding"
        )

    def __init__(self, config: Config, vocoder: Vocoder) -> None:
        super().__init__()
        self.config = config
        sizes = config.vae if config.light is None else config.light
        self.mel = Mel(config.mel)
        self.vae = Vae(sizes, config.mel.bands) if isinstance(sizes, VaeSettings) else LightVae(sizes, config.mel.bands)
        self.vocoder: Any = vocoder
        self._check_vocoder()
        self.channels = sizes.channels
        self.stride = (config.mel.hop * sizes.stride,)
        self.decides = {"rate": config.mel.rate}
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
        return within_full_scale(matched(self.vocoder(mel), mel, self.mel, self.config.matched))

    def to_mel(self, latent: Tensor) -> Tensor:
        """(B, channels, T) of unit variance -> the natural log-mel spectrogram (B, bands, T * stride / hop)."""
        check_shape(latent, (None, self.channels, None), "a batch of latents")
        scale = (self.variance + 1e-5).sqrt()[:, None]
        return self._voiced(self.vae.decode(latent * scale + self.mean[:, None]))

    def spectrogram(self, data: Tensor) -> Tensor:
        """(B, 1, S) -> (B, bands, S / hop), the logarithm as set."""
        check_shape(data, (None, 1, None), "a batch of sounds")
        length, stride = data.shape[-1], self.stride[0]
        if length % stride:
            raise ShapeError(
                f"a sound of {length} samples cannot be encoded: wanted a multiple of {stride}; "
                f"the next that fits: {-(-length // stride) * stride}"
            )
        mel: Tensor = self.mel(data)
        return mel

    def posterior(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) -> mean and log-variance of the latent, as the autoencoder has them."""
        return self.vae.encode((mel - self.config.centre) / self.config.spread)

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """What is missed on the way back, of the spectrogram or of the sound, as `taught` says.

        Args:
            data: (B, 1, S) in [-1, 1].
            generators: of what is drawn at random, one an item, on the CPU.

        Raises:
            ConfigError: a vocoder is to be taught that has no weights.
        """
        teach = self._spectrogram_loss if self.config.taught == "spectrogram" else self._vocoder_loss
        return teach(self._cropped(data, generators), generators)

    def _cropped(self, data: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        crop, stride = self.config.crop, self.stride[0]
        if crop is None or crop >= data.shape[-1]:
            return data
        places = (data.shape[-1] - crop) // stride + 1
        starts = [int(torch.randint(places, (), generator=one)) * stride for one in generators]
        return torch.stack([item[:, start : start + crop] for item, start in zip(data, starts, strict=True)])

    def _spectrogram_loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Errors of the spectrogram and of its differences between neighbours, and the divergence of the latent.

        Also moves the running mean and variance of the latent.
        """
        real = (self.spectrogram(data) - self.config.centre) / self.config.spread
        mean, log_variance = self.vae.encode(real)
        F.batch_norm(mean.detach().float(), self.mean, self.variance, training=True, momentum=0.05)
        drawn = torch.stack([torch.randn(mean.shape[1:], generator=one) for one in generators]).to(mean)
        error = (self.vae.decode(mean + (log_variance / 2).exp() * drawn) - real).float()
        edges = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
        absolute, squared = error.abs().mean(), error.square().mean()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).float().mean() / 2
        total = absolute + squared + self.config.edges * edges + self.config.divergence * divergence
        terms = {"absolute": absolute, "squared": squared, "edges": edges, "divergence": divergence}
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _vocoder_loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """A share of the spectrograms is encoded first, so that the vocoder knows what it will be handed.

        That is our own proposal.
        """
        if not isinstance(self.vocoder, nn.Module):
            raise ConfigError(f"{self.config.vocoder.use} has no weights to teach; take audio.vocos or audio.bigvgan")
        encoded = torch.stack([torch.rand((), generator=one) for one in generators]) < self.config.encoded
        with torch.no_grad():
            mel = self.spectrogram(data)
            through = self.to_mel(self.encode(data)) if bool(encoded.any()) else mel
            heard = torch.where(encoded.to(mel.device)[:, None, None], through, mel / self.config.mel.scale)
        return vocoding_loss(self.vocoder(heard), data, self.mel, weight=0.5)

    def _voiced(self, normal: Tensor) -> Tensor:
        return (normal * self.config.spread + self.config.centre) / self.config.mel.scale

    def _check_vocoder(self) -> None:
        ours = {"rate": self.config.mel.rate, "bands": self.config.mel.bands, "hop": self.config.mel.hop}
        for name, wanted in ours.items():
            came = getattr(self.vocoder, name)
            if came != wanted:
                raise ConfigError(
                    f"{self.config.vocoder.use} reads spectrograms of {name} {came}, and these are of {name} {wanted}; "
                    f"give both the same: autoencoder.mel.{name} and autoencoder.vocoder.{name}"
                )
