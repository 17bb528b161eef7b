"""Latents kept by content: what a frozen autoencoder made of an example is computed once, in this run or in another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.outside import Borrowed
from lumina_core.parts import Autoencoder
from lumina_core.train.shelf import Shelf


class KeptLatents:
    """Encodes data item by item and keeps each latent under the content of its data.

    Every item is encoded alone, whether or not there is room to keep it, for the reasons that `features.Remembered`
    gives: numbers then depend on nothing that was met before, and are bit for bit the same with any room and any
    folder. When the room is full nothing more is kept.

    Args:
        autoencoder: its weights stand still.
        room: bytes that may be kept, on the device where latents are made; 0 keeps nothing.
        shelf: where they are kept on disk as well; None: nowhere.
        fingerprint: of all that the latents depend on but the data; see `fingerprint_of`.
    """

    def __init__(
        self, autoencoder: Autoencoder, room: int, shelf: Shelf | None = None, fingerprint: str | None = None
    ) -> None:
        self.autoencoder, self.room = autoencoder, room
        self.shelf = shelf if fingerprint is not None else None
        self._fingerprint = fingerprint or ""
        self._kept: dict[str, Tensor] = {}

    def encode(self, data: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """One latent (1, C, ...) an item, without gradient."""
        return [self._latent(item, device) for item in data]

    def _latent(self, item: Tensor, device: torch.device) -> Tensor:
        key = content(item)
        if key in self._kept:
            return self._kept[key]
        found = None if self.shelf is None else self.shelf.find_tensors(self._fingerprint, key)
        if found is not None and "latent" in found:
            latent = found["latent"]
        else:
            with torch.no_grad():
                latent = self.autoencoder.encode(item[None].to(device))
            if self.shelf is not None:
                self.shelf.keep_tensors(self._fingerprint, key, {"latent": latent})
        if latent.nbytes <= self.room:
            self._kept[key] = latent
            self.room -= latent.nbytes
        return latent


def kept_latents(autoencoder: Autoencoder, use: Use, room: int, shelf: Shelf | None, precision: str) -> KeptLatents:
    """The memory of a run's latents.

    Args:
        use: the autoencoder as the recipe names it.
        precision: in what latents are computed, `cpu bfloat16`; others are kept apart.

    Raises:
        ConfigError: the autoencoder is trained, so that its latents change.
    """
    if isinstance(autoencoder, nn.Module) and any(weight.requires_grad for weight in autoencoder.parameters()):
        raise ConfigError(
            "training.keep_latents keeps what a frozen autoencoder encoded, and this one has weights that are not "
            "frozen; add `autoencoder` to training.freeze, or set keep_latents: false"
        )
    return KeptLatents(autoencoder, room, shelf, None if shelf is None else fingerprint_of(autoencoder, use, precision))


def fingerprint_of(autoencoder: Autoencoder, use: Use, precision: str) -> str | None:
    """What decides the latents of given data: the weights, the options, in what they are computed.

    None where it cannot be told: the weights are somebody else's and the part does not say of which content
    (`referenced`).
    """
    found = hashlib.sha256(json.dumps([precision, use.model_dump()], sort_keys=True, default=str).encode())
    if isinstance(autoencoder, nn.Module):
        if any(isinstance(module, Borrowed) for module in autoencoder.modules()):
            referenced: Callable[[], Any] | None = getattr(autoencoder, "referenced", None)
            if referenced is None:
                return None
            found.update(json.dumps(referenced(), sort_keys=True, default=str).encode())
        for name, tensor in autoencoder.state_dict().items():
            found.update(f"{name} {content(tensor)}".encode())
    return found.hexdigest()


def content(tensor: Tensor) -> str:
    """64 hexadecimal digits that change whenever a number, the shape or the format does."""
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.blake2b(f"{plain.dtype} {tuple(plain.shape)} ".encode(), digest_size=32)
    found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()
