"""Pictures <-> latents of unit variance: none at all (pixels), and a small convolutional one to train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.types import Loss, check_shape


class Pixels:
    """Pixels are their own latent."""

    class Config(Settings):
        """What a pixel holds."""

        channels: int = Field(3, ge=1, description="colours of a pixel")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = config.channels
        self.stride = (1, 1)

    def encode(self, data: Tensor) -> Tensor:
        """(B, channels, H, W) in [-1, 1] -> the same."""
        check_shape(data, (None, self.channels, None, None), "a batch of pictures")
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return latent


class SmallAutoencoder(nn.Module):
    """A small convolutional autoencoder of our own proposal, without a variational term.

    What a channel of the latent weighs is fixed by normalising it: over the batch while training, over a running mean
    and variance (kept with the weights) ever after. A little noise on the normalised latent stands for the variational
    term: it makes neighbours in the latent decode alike, and cannot be escaped by scaling.
    """

    class Config(Settings):
        """Sizes of the networks."""

        channels: int = Field(4, ge=1, description="channels of the latent")
        width: int = Field(32, ge=8, multiple_of=8, description="channels of the outermost layer; inner ones have more")
        halvings: int = Field(2, ge=0, le=5, description="how often the side is halved: 2 makes it a quarter")
        blocks: int = Field(1, ge=1, le=8, description="residual blocks at each resolution")
        colours: int = Field(3, ge=1, description="channels of the pictures")
        noise: float = Field(0.05, ge=0, le=1, description="deviation of the noise on the latent while training")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stride = (2**config.halvings, 2**config.halvings)
        widths = [config.width * min(2**level, 4) for level in range(config.halvings + 1)]
        self.encoder = _down(config.colours, widths, config.channels, config.blocks)
        self.decoder = _up(config.channels, widths[::-1], config.colours, config.blocks)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("variance", torch.ones(config.channels))
        self.mean: Tensor
        self.variance: Tensor

    def encode(self, data: Tensor) -> Tensor:
        """(B, colours, H, W) in [-1, 1] -> (B, channels, H / stride, W / stride) of zero mean and unit variance.

        Raises:
            ShapeError: a side is no multiple of the stride.
        """
        return F.batch_norm(self._raw(data), self.mean, self.variance)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, colours, h * stride, w * stride), not clamped."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        decoded: Tensor = self.decoder(latent)
        return decoded

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Mean absolute plus mean squared error of what comes back; also moves the running mean and variance.

        Args:
            data: (B, colours, H, W) in [-1, 1].
            generators: of the noise, one an item, on the CPU.
        """
        raw = self._raw(data)
        latent = F.batch_norm(raw, self.mean, self.variance, training=True, momentum=0.1)
        noise = torch.stack([torch.randn(latent.shape[1:], generator=generator) for generator in generators])
        error = self.decode(latent + self.config.noise * noise.to(latent)) - data
        absolute, squared = error.abs().mean(), error.square().mean()
        return Loss(absolute + squared, {"absolute": absolute.detach(), "squared": squared.detach()})

    def _raw(self, data: Tensor) -> Tensor:
        check_shape(data, (None, self.config.colours, None, None), "a batch of pictures")
        height, width = data.shape[-2:]
        stride = self.stride[0]
        if height % stride or width % stride:
            wanted = f"{-(-height // stride) * stride}x{-(-width // stride) * stride}"
            raise ShapeError(
                f"a picture of {height}x{width} (rows x columns) cannot be encoded: "
                f"its sides must be multiples of {stride}; the next that fits: {wanted}"
            )
        raw: Tensor = self.encoder(data)
        return raw


class _Residual(nn.Module):
    """Two convolutions beside a straight road; the second begins at zero, so that a fresh block changes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), last])

    def forward(self, x: Tensor) -> Tensor:
        added = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            added = convolution(F.silu(norm(added)))
        return x + added


def _down(colours: int, widths: list[int], channels: int, blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(colours, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers += [nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1)]
        layers += [_Residual(width) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], channels, 3, padding=1))


def _up(channels: int, widths: list[int], colours: int, blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            # a convolution before a shuffle: no checkerboard of overlapping steps, and cheap
            layers += [nn.Conv2d(widths[level - 1], 4 * width, 3, padding=1), nn.PixelShuffle(2)]
        layers += [_Residual(width) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], colours, 3, padding=1))
