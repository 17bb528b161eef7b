"""Pictures <-> latents of unit variance by a published autoencoder: diffusers' AutoencoderKL."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.errors import CheckpointError, ConfigError, LuminaError, ShapeError
from lumina_core.pretrained import (
    FrozenModule,
    PretrainedConfig,
    digest,
    read_config,
    require,
    resolve_path,
    verify_sha256,
)
from lumina_core.protocols import Autoencoder
from lumina_core.types import check_shape

FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
TILING_THRESHOLD = 1536**2
"""Pixels beyond which a picture is handled in tiles unless the settings say otherwise."""
DEFAULT_SCALING_FACTOR = 0.18215
"""Of the class AutoencoderKL where its config.json says none (Stable Diffusion 1)."""


class KLAutoencoder(nn.Module, Autoencoder):
    """The VAE of a published latent model, frozen, loaded when the first picture passes.

    It owns its scale: a latent is (z - shift) * scale, of about unit variance. Both are read from the config.json of
    the weights (SDXL: 0.13025; the sd-vae-ft ones: 0.18215) unless they are given; so are the means and deviations of
    single channels, where a VAE has them (`latents_mean`, `latents_std`).

    The SDXL VAE overflows in float16 (`force_upcast` in its config.json): asked for it, such a VAE runs in float32.
    """

    class Config(PretrainedConfig):
        """Which weights, their scale, and how large pictures are handled."""

        source: str = Field(
            "stabilityai/sdxl-vae", description="folder with config.json and safetensors, or a hub name"
        )
        scaling_factor: float | None = Field(
            None, gt=0, description="a latent is so many times what the network says; None: its own"
        )
        shift_factor: float | None = Field(None, description="taken off before scaling; None: the source's own")
        posterior: Literal["mean", "sample"] = Field(
            "mean", description="what of the posterior is the latent; sample: as published for training"
        )
        tiling: bool | None = Field(
            None, description="in overlapping tiles: less memory, slight seams; None: pictures beyond 1536x1536"
        )
        slicing: bool | None = Field(
            None, description="one picture of a batch after another: less memory; None: as tiled"
        )
        latent_channels: int | None = Field(None, ge=1, description="of the latent; None: as the source says")
        downsample_factor: int | None = Field(
            None, ge=1, description="pixels a latent pixel stands for; None: as the source says"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._cached_source_config: dict[str, Any] | None = (
            None  # what config.json says; read once, not for every picture
        )
        self.channels = config.latent_channels or int(self._source_config()["latent_channels"])
        factor = config.downsample_factor or 2 ** (len(self._source_config()["block_out_channels"]) - 1)
        self.downsample_factor = (factor, factor)
        self.pretrained = FrozenModule(self._load, config.device)
        self._use_float32 = False  # half precision has overflowed: float32 from now on

    def encode(self, data: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, channels, H / stride, W / stride), without gradient.

        A sample of the posterior is drawn by the picture itself: the same picture has the same one, in every run.

        Raises:
            ShapeError: a side is no multiple of the stride.
            CheckpointError: the source is not there, is cut short, or is not what `sha256` says.
        """
        check_shape(data, (None, None, None, None), "a batch of pictures")
        if any(side % self.downsample_factor[0] for side in data.shape[-2:]):
            raise ShapeError(
                f"a picture of {data.shape[-2]}x{data.shape[-1]} (rows x columns) cannot be encoded: "
                f"its sides must be multiples of {self.downsample_factor[0]}"
            )
        with torch.no_grad():
            return self._run_finite(lambda network: self._encode(network, data)).to(data.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, h * stride, w * stride), not clamped."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return self._run_finite(lambda network: self._decode(network, latent)).to(latent.dtype)

    def pin_hashes(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(resolve_path(self.config, FILES))}

    def check_available(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._source_config()

    def _set_tiling(self, network: Any, num_pixels: int) -> None:
        """Tell the network how to handle pictures of so many pixels."""
        is_large = num_pixels > TILING_THRESHOLD
        tiling = is_large if self.config.tiling is None else self.config.tiling
        slicing = is_large if self.config.slicing is None else self.config.slicing
        network.use_tiling, network.use_slicing = tiling, slicing

    def _encode(self, network: Any, data: Tensor) -> Tensor:
        self._set_tiling(network, data.shape[-2] * data.shape[-1])
        posterior = network.encode(data.to(network.device, network.dtype)).latent_dist
        latent: Tensor = posterior.mean
        if self.config.posterior == "sample":
            latent = latent + posterior.std * torch.stack(
                [_posterior_noise(item, latent.shape[1:]) for item in data]
            ).to(latent)
        mean, std = self._latent_statistics(latent)
        return ((latent.float() - mean) / std).to(data.device)

    def _decode(self, network: Any, latent: Tensor) -> Tensor:
        mean, std = self._latent_statistics(latent)
        raw = (latent.float() * std + mean).to(network.device, network.dtype)
        self._set_tiling(network, raw.shape[-2] * raw.shape[-1] * self.downsample_factor[0] * self.downsample_factor[1])
        decoded: Tensor = network.decode(raw, return_dict=False)[0]
        return decoded.to(latent.device)

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of what the network calls a latent, each (channels or 1, 1, 1) float32."""
        source_config = self._source_config()
        scale = self.config.scaling_factor or float(source_config.get("scaling_factor") or DEFAULT_SCALING_FACTOR)
        shift = (
            source_config.get("shift_factor") or 0.0 if self.config.shift_factor is None else self.config.shift_factor
        )
        is_overridden = self.config.scaling_factor is not None or self.config.shift_factor is not None
        means = None if is_overridden else source_config.get("latents_mean")
        stds = None if is_overridden else source_config.get("latents_std")
        mean = torch.tensor([shift] if means is None else means, device=like.device)
        std = torch.tensor([1.0] if stds is None else stds, device=like.device)
        return mean.float().view(-1, 1, 1), (std.float() / scale).view(-1, 1, 1)

    def _run_finite(self, run: Any) -> Tensor:
        """What `run` makes with the network outside any autocast; again in float32 where float16 was too narrow."""
        network = self.pretrained.network()
        with torch.autocast(self.pretrained.device.type, enabled=False):
            output: Tensor = run(network)
        if bool(torch.isfinite(output).all()):
            return output
        if network.dtype != torch.float16 or self._use_float32:
            raise LuminaError(f"{self.config.source} made what is no number; the latent or its weights are broken")
        warnings.warn(f"{self.config.source} overflows in float16; done in float32 instead", stacklevel=3)
        self._use_float32 = True
        self.pretrained.unload()
        return self._run_finite(run)

    def _load(self, device: torch.device) -> nn.Module:
        library = require("diffusers", "lumina-image[diffusers]", "image.kl")
        folder = resolve_path(self.config, FILES)
        verify_sha256(self.config, folder)
        dtype = self.config.resolve_dtype(folder, device)
        if self._use_float32 or (dtype == torch.float16 and self._source_config().get("force_upcast")):
            dtype = torch.float32
        try:
            network: Any = library.AutoencoderKL.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except Exception as error:  # of the library's, of safetensors' and of torch's making
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder} cannot be read as an AutoencoderKL ({reason}); fetch it again") from error
        self._check_network(network)
        loaded: nn.Module = network
        return loaded

    def _check_network(self, network: Any) -> None:
        actual = network.config.latent_channels, 2 ** (len(network.config.block_out_channels) - 1)
        if actual != (self.channels, self.downsample_factor[0]):
            raise ConfigError(
                f"image.kl: {self.config.source} has {actual[0]} channels and a stride of {actual[1]}; "
                f"the settings say {self.channels} and {self.downsample_factor[0]}"
            )

    def _source_config(self) -> dict[str, Any]:
        if self._cached_source_config is None:
            self._cached_source_config = self._read_source_config()
        return self._cached_source_config

    def _read_source_config(self) -> dict[str, Any]:
        folder = resolve_path(self.config, FILES)
        source_config = read_config(folder)
        if source_config.get("_class_name") != "AutoencoderKL":
            raise CheckpointError(
                f"{folder} is of the class {source_config.get('_class_name')}; image.kl reads AutoencoderKL"
            )
        return source_config


def _posterior_noise(image: Tensor, shape: Sequence[int]) -> Tensor:
    # levels of 8 bits: the last digits of a picture, which differ from machine to machine, do not change its noise
    pixels = ((image.detach().float().cpu() + 1) * 127.5).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes()))
    return torch.randn(*shape, generator=generator)
