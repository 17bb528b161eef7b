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
from lumina_core.outside import Borrowed, Borrowing, described, digest, located, needed, verified
from lumina_core.types import check_shape

FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
LARGE = 1536**2
"""Pixels beyond which a picture is handled in tiles unless the settings say otherwise."""
USUAL_SCALE = 0.18215
"""Of the class AutoencoderKL where its config.json says none (Stable Diffusion 1)."""


class KLAutoencoder(nn.Module):
    """The VAE of a published latent model, frozen, loaded when the first picture passes.

    It owns its scale: a latent is (z - shift) * scale, of about unit variance. Both are read from the config.json of
    the weights (SDXL: 0.13025; the sd-vae-ft ones: 0.18215) unless they are given; so are the means and deviations of
    single channels, where a VAE has them (`latents_mean`, `latents_std`).

    The SDXL VAE overflows in float16 (`force_upcast` in its config.json): asked for it, such a VAE runs in float32.
    """

    class Config(Borrowing):
        """Which weights, their scale, and how large pictures are handled."""

        source: str = Field(
            "stabilityai/sdxl-vae", description="folder with config.json and safetensors, or a hub name"
        )
        scale: float | None = Field(
            None, gt=0, description="a latent is so many times what the network says; None: its own"
        )
        shift: float | None = Field(None, description="taken off before scaling; None: the source's own")
        posterior: Literal["mean", "sample"] = Field(
            "mean", description="what of the posterior is the latent; sample: as published for training"
        )
        tiled: bool | None = Field(
            None, description="in overlapping tiles: less memory, slight seams; None: pictures beyond 1536x1536"
        )
        sliced: bool | None = Field(
            None, description="one picture of a batch after another: less memory; None: as tiled"
        )
        channels: int | None = Field(None, ge=1, description="of the latent; None: as the source says")
        stride: int | None = Field(None, ge=1, description="pixels a latent pixel stands for; None: as the source says")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._said: dict[str, Any] | None = None  # what config.json says; read once, not for every picture
        self.channels = config.channels or int(self._described()["latent_channels"])
        side = config.stride or 2 ** (len(self._described()["block_out_channels"]) - 1)
        self.stride = (side, side)
        self.borrowed = Borrowed(self._load, config.device)
        self._wider = False  # half precision has overflowed: float32 from now on

    def encode(self, data: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, channels, H / stride, W / stride), without gradient.

        A sample of the posterior is drawn by the picture itself: the same picture has the same one, in every run.

        Raises:
            ShapeError: a side is no multiple of the stride.
            CheckpointError: the source is not there, is cut short, or is not what `sha256` says.
        """
        check_shape(data, (None, None, None, None), "a batch of pictures")
        if any(side % self.stride[0] for side in data.shape[-2:]):
            raise ShapeError(
                f"a picture of {data.shape[-2]}x{data.shape[-1]} (rows x columns) cannot be encoded: "
                f"its sides must be multiples of {self.stride[0]}"
            )
        with torch.no_grad():
            return self._finite(lambda network: self._encoded(network, data)).to(data.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, h * stride, w * stride), not clamped."""
        check_shape(latent, (None, self.channels, None, None), "a batch of latents")
        return self._finite(lambda network: self._decoded(network, latent)).to(latent.dtype)

    def referenced(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(located(self.config, FILES))}

    def ready(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._described()

    def _spare(self, network: Any, pixels: int) -> None:
        """Tell the network how to handle pictures of so many pixels."""
        large = pixels > LARGE
        tiled = large if self.config.tiled is None else self.config.tiled
        sliced = large if self.config.sliced is None else self.config.sliced
        network.use_tiling, network.use_slicing = tiled, sliced

    def _encoded(self, network: Any, data: Tensor) -> Tensor:
        self._spare(network, data.shape[-2] * data.shape[-1])
        posterior = network.encode(data.to(network.device, network.dtype)).latent_dist
        latent: Tensor = posterior.mean
        if self.config.posterior == "sample":
            latent = latent + posterior.std * torch.stack([_noise(item, latent.shape[1:]) for item in data]).to(latent)
        mean, deviation = self._statistics(latent)
        return ((latent.float() - mean) / deviation).to(data.device)

    def _decoded(self, network: Any, latent: Tensor) -> Tensor:
        mean, deviation = self._statistics(latent)
        raw = (latent.float() * deviation + mean).to(network.device, network.dtype)
        self._spare(network, raw.shape[-2] * raw.shape[-1] * self.stride[0] * self.stride[1])
        decoded: Tensor = network.decode(raw, return_dict=False)[0]
        return decoded.to(latent.device)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of what the network calls a latent, each (channels or 1, 1, 1) float32."""
        said = self._described()
        scale = self.config.scale or float(said.get("scaling_factor") or USUAL_SCALE)
        shift = said.get("shift_factor") or 0.0 if self.config.shift is None else self.config.shift
        given = self.config.scale is not None or self.config.shift is not None
        means = None if given else said.get("latents_mean")
        deviations = None if given else said.get("latents_std")
        mean = torch.tensor([shift] if means is None else means, device=like.device)
        deviation = torch.tensor([1.0] if deviations is None else deviations, device=like.device)
        return mean.float().view(-1, 1, 1), (deviation.float() / scale).view(-1, 1, 1)

    def _finite(self, run: Any) -> Tensor:
        """What `run` makes with the network outside any autocast; again in float32 where float16 was too narrow."""
        network = self.borrowed.network()
        with torch.autocast(self.borrowed.device.type, enabled=False):
            made: Tensor = run(network)
        if bool(torch.isfinite(made).all()):
            return made
        if network.dtype != torch.float16 or self._wider:
            raise LuminaError(f"{self.config.source} made what is no number; the latent or its weights are broken")
        warnings.warn(f"{self.config.source} overflows in float16; done in float32 instead", stacklevel=3)
        self._wider = True
        self.borrowed.release()
        return self._finite(run)

    def _load(self, device: torch.device) -> nn.Module:
        library = needed("diffusers", "lumina-image[diffusers]", "image.kl")
        folder = located(self.config, FILES)
        verified(self.config, folder)
        dtype = self.config.chosen(folder, device)
        if self._wider or (dtype == torch.float16 and self._described().get("force_upcast")):
            dtype = torch.float32
        try:
            network: Any = library.AutoencoderKL.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except Exception as error:  # of the library's, of safetensors' and of torch's making
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder} cannot be read as an AutoencoderKL ({reason}); fetch it again") from error
        self._check(network)
        loaded: nn.Module = network
        return loaded

    def _check(self, network: Any) -> None:
        found = network.config.latent_channels, 2 ** (len(network.config.block_out_channels) - 1)
        if found != (self.channels, self.stride[0]):
            raise ConfigError(
                f"image.kl: {self.config.source} has {found[0]} channels and a stride of {found[1]}; "
                f"the settings say {self.channels} and {self.stride[0]}"
            )

    def _described(self) -> dict[str, Any]:
        if self._said is None:
            self._said = self._read()
        return self._said

    def _read(self) -> dict[str, Any]:
        folder = located(self.config, FILES)
        said = described(folder)
        if said.get("_class_name") != "AutoencoderKL":
            raise CheckpointError(f"{folder} is of the class {said.get('_class_name')}; image.kl reads AutoencoderKL")
        return said


def _noise(picture: Tensor, shape: Sequence[int]) -> Tensor:
    # levels of 8 bits: the last digits of a picture, which differ from machine to machine, do not change its noise
    levels = ((picture.detach().float().cpu() + 1) * 127.5).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(zlib.crc32(levels.numpy().tobytes()))
    return torch.randn(*shape, generator=generator)
