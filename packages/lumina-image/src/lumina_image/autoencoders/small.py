"""Small convolutional autoencoder, trained with the objective `core.reconstruction`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder
from lumina_core.types import Loss, check_shape


class SmallAutoencoder(nn.Module, Autoencoder):
    """Convolutional autoencoder without a variational term.

    The latent is normalised per channel: by the statistics of the batch in training, by their running mean and variance
    (buffers) otherwise. Noise on the normalised latent replaces the variational term: nearby latents decode to similar
    images, and a larger scale of the latent cannot circumvent it.
    """

    class Config(Settings):
        """Sizes of the networks."""

        latent_channels: int = Field(4, ge=1, description="channels of the latent")
        base_channels: int = Field(
            32,
            ge=8,
            multiple_of=8,
            description="channels of the outermost layer; inner layers have up to four times as many",
        )
        num_downsamples: int = Field(2, ge=0, le=5, description="number of halvings of the side")
        pixel_unshuffle_factor: Literal[1, 2, 4, 8] = Field(
            1, description="space to depth before the first layer: squares of this side become channels; 1: none"
        )
        num_blocks: int = Field(1, ge=1, le=8, description="residual blocks per resolution")
        num_decoder_blocks: int | None = Field(
            None, ge=1, le=8, description="residual blocks per resolution of the decoder; None: num_blocks"
        )
        in_channels: int = Field(3, ge=1, description="channels of the images")
        latent_noise_std: float = Field(
            0.05, ge=0, le=1, description="standard deviation of the noise on the latent in training"
        )
        max_latent_noise_std: float | None = Field(
            None,
            ge=0,
            le=2,
            description="each item draws its standard deviation between latent_noise_std and this; None: no range",
        )
        gradient_weight: float = Field(0.0, ge=0, description="weight of the absolute error of image gradients")
        downsample_weight: float = Field(
            0.0, ge=0, description="weight of the error of a 2x2-averaged latent against the 2x2-averaged image"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels
        self.downsample_factor = (config.pixel_unshuffle_factor * 2**config.num_downsamples,) * 2
        widths = [config.base_channels * min(2**level, 4) for level in range(config.num_downsamples + 1)]
        channels = config.in_channels * config.pixel_unshuffle_factor**2
        decoder_blocks = config.num_decoder_blocks or config.num_blocks
        self.encoder = _make_encoder(channels, widths, config.latent_channels, config.num_blocks)
        self.decoder = _make_decoder(config.latent_channels, widths[::-1], channels, decoder_blocks)
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("variance", torch.ones(config.latent_channels))
        self.mean: Tensor
        self.variance: Tensor

    def encode(self, data: Tensor) -> Tensor:
        """Encode images in [-1, 1] to latents of zero mean and unit variance.

        Args:
            data: (B, in_channels, H, W).

        Returns:
            (B, latent_channels, H / downsample_factor, W / downsample_factor).

        Raises:
            ShapeError: a side is not a multiple of the downsampling factor.
        """
        return F.batch_norm(self._encode_raw(data), self.mean, self.variance)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents (B, latent_channels, h, w) to images (B, in_channels, H, W), not clamped."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return F.pixel_shuffle(self.decoder(latent), self.config.pixel_unshuffle_factor)

    def no_muon(self) -> set[str]:
        """Return the first and the last layer of both networks."""
        return {
            "encoder.0.weight",
            f"encoder.{len(self.encoder) - 1}.weight",
            f"decoder.{len(self.decoder) - 1}.weight",
        }

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the mean absolute plus mean squared reconstruction error; updates the running statistics.

        `gradient_weight` adds the error of differences between neighbouring pixels. `downsample_weight` adds the error
        of latents averaged over 2x2, which must decode to images averaged over 2x2 (EQ-VAE, arXiv 2502.09509): coarse
        content then has low frequencies in the latent, which a generator learns sooner.

        Args:
            data: (B, in_channels, H, W) in [-1, 1].
            generators: CPU generators of the noise, one per item.
        """
        config = self.config
        latent = F.batch_norm(self._encode_raw(data), self.mean, self.variance, training=True, momentum=0.1)
        noise = torch.stack([self._sample_noise(latent.shape[1:], generator) for generator in generators])
        error = self.decode(latent + noise.to(latent)) - data
        terms = {"l1": error.abs().mean(), "mse": error.square().mean()}
        total = terms["l1"] + terms["mse"]
        if config.gradient_weight:
            terms["gradient"] = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
            total = total + config.gradient_weight * terms["gradient"]
        if config.downsample_weight:
            # half of the batch is enough, and halves the cost
            items = slice((len(data) + 1) // 2)
            error = self.decode(F.avg_pool2d(latent[items], 2)) - F.avg_pool2d(data[items], 2)
            terms["downsample"] = error.abs().mean() + error.square().mean()
            total = total + config.downsample_weight * terms["downsample"]
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _sample_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        low, high = self.config.latent_noise_std, self.config.max_latent_noise_std
        if high is None:
            return low * noise
        return (low + (high - low) * torch.rand((), generator=generator)) * noise

    def _encode_raw(self, data: Tensor) -> Tensor:
        check_shape(data, (None, self.config.in_channels, None, None), "a batch of images")
        height, width = data.shape[-2:]
        factor = self.downsample_factor[0]
        if height % factor or width % factor:
            expected = f"{-(-height // factor) * factor}x{-(-width // factor) * factor}"
            raise ShapeError(
                f"image size: got {height}x{width} (rows x columns), expected multiples of {factor}. "
                f"The next larger size is {expected}."
            )
        raw: Tensor = self.encoder(F.pixel_unshuffle(data, self.config.pixel_unshuffle_factor))
        return raw


class _ResBlock(nn.Module):
    """Residual block of two convolutions; the second is initialised to zero, so that a new block is the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), last])

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            residual = convolution(F.silu(norm(residual)))
        return x + residual


def _make_encoder(in_channels: int, widths: list[int], latent_channels: int, num_blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers += [nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1)]
        layers += [_ResBlock(width) for _ in range(num_blocks)]
    return nn.Sequential(
        *layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], latent_channels, 3, padding=1)
    )


def _make_decoder(latent_channels: int, widths: list[int], out_channels: int, num_blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            # sub-pixel convolution has no checkerboard artifacts and is cheap
            layers += [nn.Conv2d(widths[level - 1], 4 * width, 3, padding=1), nn.PixelShuffle(2)]
        layers += [_ResBlock(width) for _ in range(num_blocks)]
    return nn.Sequential(
        *layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out_channels, 3, padding=1)
    )
