"""Published VAEs of latent diffusion models: AutoencoderKL of diffusers, frozen."""

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
"""Pixels of an image above which tiling and slicing are used by default."""
DEFAULT_SCALING_FACTOR = 0.18215
"""Scaling factor of an AutoencoderKL whose config.json has none (Stable Diffusion 1)."""


class KLAutoencoder(nn.Module, Autoencoder):
    """Frozen VAE of a published latent diffusion model, loaded on first use.

    A latent is (z - shift) * scale, of about unit variance. Both are read from the config.json of the weights (SDXL:
    0.13025; sd-vae-ft: 0.18215) unless the options set them, and so are mean and standard deviation per channel if the
    VAE has them (`latents_mean`, `latents_std`).

    A VAE that overflows in float16 (SDXL; `force_upcast` in its config.json) runs in float32 instead.
    """

    class Config(PretrainedConfig):
        """Weights, scale, and treatment of large images."""

        source: str = Field(
            "stabilityai/sdxl-vae", description="folder with config.json and safetensors, or a hub name"
        )
        scaling_factor: float | None = Field(None, gt=0, description="factor of latents; null: that of the source")
        shift_factor: float | None = Field(None, description="subtracted before scaling; null: that of the source")
        posterior: Literal["mean", "sample"] = Field(
            "mean", description="latent of an image: mean or sample of the posterior; sample: as in published trainings"
        )
        tiling: bool | None = Field(
            None, description="overlapping tiles: less memory, slight seams; null: for images above 1536x1536 pixels"
        )
        slicing: bool | None = Field(
            None, description="one image of a batch at a time: less memory; null: for images above 1536x1536 pixels"
        )
        latent_channels: int | None = Field(None, ge=1, description="channels of the latent; null: those of the source")
        downsample_factor: int | None = Field(
            None, ge=1, description="pixels per latent pixel, along each axis; null: that of the source"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._cached_source_config: dict[str, Any] | None = None
        self.channels = config.latent_channels or int(self._source_config()["latent_channels"])
        factor = config.downsample_factor or 2 ** (len(self._source_config()["block_out_channels"]) - 1)
        self.downsample_factor = (factor, factor)
        self.pretrained = FrozenModule(self._load, config.device)
        self._use_float32 = False  # set after an overflow in float16

    def encode(self, data: Tensor) -> Tensor:
        """Encode images to latents, without gradient.

        The seed of a posterior sample is a hash of the image, so that an image has the same sample in every run.

        Args:
            data: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, channels, H / downsample_factor, W / downsample_factor).

        Raises:
            ShapeError: a side is not a multiple of the downsampling factor.
            CheckpointError: the source is missing, truncated, or has another `sha256`.
        """
        check_shape(data, (None, None, None, None), "a batch of images")
        if any(side % self.downsample_factor[0] for side in data.shape[-2:]):
            raise ShapeError(
                f"image size: got {data.shape[-2]}x{data.shape[-1]} (rows x columns), "
                f"expected multiples of {self.downsample_factor[0]}."
            )
        with torch.no_grad():
            return self._run_finite(lambda network: self._encode(network, data)).to(data.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents (B, channels, h, w) to images (B, 3, H, W), not clamped."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return self._run_finite(lambda network: self._decode(network, latent)).to(latent.dtype)

    def pin_hashes(self) -> dict[str, Any]:
        """Return the SHA-256 of the source as an option."""
        return {"sha256": digest(resolve_path(self.config, FILES))}

    def check_available(self) -> None:
        """Check that the source exists, without loading its weights."""
        self._source_config()

    def _set_tiling(self, network: Any, num_pixels: int) -> None:
        """Set tiling and slicing of the network for images of `num_pixels` pixels."""
        is_large = num_pixels > TILING_THRESHOLD
        tiling = is_large if self.config.tiling is None else self.config.tiling
        slicing = is_large if self.config.slicing is None else self.config.slicing
        network.use_tiling, network.use_slicing = tiling, slicing

    def _encode(self, network: Any, data: Tensor) -> Tensor:
        self._set_tiling(network, data.shape[-2] * data.shape[-1])
        posterior = network.encode(data.to(network.device, network.dtype)).latent_dist
        latent: Tensor = posterior.mean
        if self.config.posterior == "sample":
            noise = torch.stack([_posterior_noise(item, latent.shape[1:]) for item in data])
            latent = latent + posterior.std * noise.to(latent)
        mean, std = self._latent_statistics(latent)
        return ((latent.float() - mean) / std).to(data.device)

    def _decode(self, network: Any, latent: Tensor) -> Tensor:
        mean, std = self._latent_statistics(latent)
        raw = (latent.float() * std + mean).to(network.device, network.dtype)
        self._set_tiling(network, raw.shape[-2] * raw.shape[-1] * self.downsample_factor[0] * self.downsample_factor[1])
        decoded: Tensor = network.decode(raw, return_dict=False)[0]
        return decoded.to(latent.device)

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the network's latent, each (channels or 1, 1, 1) float32."""
        source_config = self._source_config()
        scale = self.config.scaling_factor or float(source_config.get("scaling_factor") or DEFAULT_SCALING_FACTOR)
        shift = self.config.shift_factor
        if shift is None:
            shift = float(source_config.get("shift_factor") or 0.0)
        is_overridden = self.config.scaling_factor is not None or self.config.shift_factor is not None
        means = None if is_overridden else source_config.get("latents_mean")
        stds = None if is_overridden else source_config.get("latents_std")
        mean = torch.tensor([shift] if means is None else means, device=like.device)
        std = torch.tensor([1.0] if stds is None else stds, device=like.device)
        return mean.float().view(-1, 1, 1), (std.float() / scale).view(-1, 1, 1)

    def _run_finite(self, run: Any) -> Tensor:
        """Run the network without autocast; again in float32 if float16 overflows."""
        network = self.pretrained.network()
        with torch.autocast(self.pretrained.device.type, enabled=False):
            output: Tensor = run(network)
        if bool(torch.isfinite(output).all()):
            return output
        if network.dtype != torch.float16 or self._use_float32:
            raise LuminaError(
                f"{self.config.source}: got NaN or infinite values. The input or the weights are damaged."
            )
        warnings.warn(f"{self.config.source} overflows in float16: using float32.", stacklevel=3)
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
        except Exception as error:  # of diffusers, safetensors or torch
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: got no readable AutoencoderKL ({reason}). Get it again.") from error
        self._check_network(network)
        loaded: nn.Module = network
        return loaded

    def _check_network(self, network: Any) -> None:
        actual = network.config.latent_channels, 2 ** (len(network.config.block_out_channels) - 1)
        if actual != (self.channels, self.downsample_factor[0]):
            raise ConfigError(
                f"image.kl: {self.config.source} has latent_channels {actual[0]} and downsample_factor {actual[1]}, "
                f"expected {self.channels} and {self.downsample_factor[0]} as in the recipe."
            )

    def _source_config(self) -> dict[str, Any]:
        if self._cached_source_config is None:
            folder = resolve_path(self.config, FILES)
            source_config = read_config(folder)
            if source_config.get("_class_name") != "AutoencoderKL":
                raise CheckpointError(
                    f"{folder}: got _class_name {source_config.get('_class_name')}, expected AutoencoderKL."
                )
            self._cached_source_config = source_config
        return self._cached_source_config


def _posterior_noise(image: Tensor, shape: Sequence[int]) -> Tensor:
    # 8-bit pixels: rounding errors, which differ between machines, do not change the seed
    pixels = ((image.detach().float().cpu() + 1) * 127.5).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes()))
    return torch.randn(*shape, generator=generator)
