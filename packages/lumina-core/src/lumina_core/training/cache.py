"""Frozen features kept by value: what a costly conditioner that is not trained says is computed once a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumina_core.conditioning.ops import select, stack
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file
from lumina_core.pretrained import FrozenModule
from lumina_core.protocols import Autoencoder, Conditioner
from lumina_core.types import Condition

CONDITION_FIELDS = ("context", "context_mask", "pooled")
"""The doors of a condition that are kept; one with context is not."""


class DiskCache:
    """A folder of conditions and latents, one small safetensors file each, whole or not there.

    Files lie under the fingerprint of the part that made them, which covers its weights and options: others never find
    them. When the room is full nothing more is kept; a file that cannot be read counts as not there.

    Args:
        folder: made where it is not there; several runs and processes may share it.
        room: bytes that all files in it may have together.
        device: where what is found is put.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = folder, device
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.bytes_left = max_bytes - sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        except OSError as error:
            raise ConfigError(f"training.cache_dir {folder} cannot be used: {error.strerror or error}") from error

    def get(self, fingerprint: str, text: str | None) -> Condition | None:
        """What was said of a text, or of silence (None); None where it is not kept."""
        tensors = self.get_tensors(fingerprint, _text_key(text))
        return (
            None
            if tensors is None
            else Condition(tensors.get("context"), tensors.get("context_mask"), tensors.get("pooled"))
        )

    def put(self, fingerprint: str, text: str | None, condition: Condition) -> None:
        """Keep what was said, where there is room for it."""
        if condition.reference is None:
            tensors = {
                name: getattr(condition, name) for name in CONDITION_FIELDS if getattr(condition, name) is not None
            }
            self.put_tensors(fingerprint, _text_key(text), tensors)

    def get_tensors(self, fingerprint: str, name: str) -> dict[str, Tensor] | None:
        """What is kept under a name; None where nothing is."""
        try:
            return load_file(self._path(fingerprint, name), str(self.device))
        except (OSError, SafetensorError):
            return None

    def put_tensors(self, fingerprint: str, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name (letters and digits), where there is room for them."""
        size = sum(tensor.nbytes for tensor in tensors.values()) + 1024
        path = self._path(fingerprint, name)
        if size > self.bytes_left or path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial)
            self.bytes_left -= path.stat().st_size
        except (OSError, SafetensorError):  # a full disk: a run needs the shelf as little as it needs a full one
            self.bytes_left = 0

    def _path(self, fingerprint: str, name: str) -> Path:
        return self.folder / fingerprint[:32] / name[:2] / f"{name}.safetensors"


def _text_key(text: str | None) -> str:
    return "null" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class LatentCache:
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
        self,
        autoencoder: Autoencoder,
        max_bytes: int,
        disk_cache: DiskCache | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.autoencoder, self.bytes_left = autoencoder, max_bytes
        self.disk_cache = disk_cache if fingerprint is not None else None
        self._fingerprint = fingerprint or ""
        self._cache: dict[str, Tensor] = {}

    def encode(self, data: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """One latent (1, C, ...) an item, without gradient."""
        return [self._encode_item(item, device) for item in data]

    def _encode_item(self, item: Tensor, device: torch.device) -> Tensor:
        key = tensor_digest(item)
        if key in self._cache:
            return self._cache[key]
        stored = None if self.disk_cache is None else self.disk_cache.get_tensors(self._fingerprint, key)
        if stored is not None and "latent" in stored:
            latent = stored["latent"]
        else:
            with torch.no_grad():
                latent = self.autoencoder.encode(item[None].to(device))
            if self.disk_cache is not None:
                self.disk_cache.put_tensors(self._fingerprint, key, {"latent": latent})
        if latent.nbytes <= self.bytes_left:
            self._cache[key] = latent
            self.bytes_left -= latent.nbytes
        return latent


def make_latent_cache(
    autoencoder: Autoencoder, spec: ComponentSpec, max_bytes: int, disk_cache: DiskCache | None, precision: str
) -> LatentCache:
    """The memory of a run's latents.

    Args:
        use: the autoencoder as the recipe names it.
        precision: in what latents are computed, `cpu bfloat16`; others are kept apart.

    Raises:
        ConfigError: the autoencoder is trained, so that its latents change.
    """
    if isinstance(autoencoder, nn.Module) and any(weight.requires_grad for weight in autoencoder.parameters()):
        raise ConfigError(
            "training.cache_latents keeps what a frozen autoencoder encoded, and this one has weights that are not "
            "frozen; add `autoencoder` to training.freeze, or set cache_latents: false"
        )
    return LatentCache(
        autoencoder,
        max_bytes,
        disk_cache,
        None if disk_cache is None else latent_fingerprint(autoencoder, spec, precision),
    )


def latent_fingerprint(autoencoder: Autoencoder, spec: ComponentSpec, precision: str) -> str | None:
    """What decides the latents of given data: the weights, the options, in what they are computed.

    None where it cannot be told: the weights are somebody else's and the part does not say of which content
    (`referenced`).
    """
    hasher = hashlib.sha256(json.dumps([precision, spec.model_dump()], sort_keys=True, default=str).encode())
    if isinstance(autoencoder, nn.Module):
        if any(isinstance(module, FrozenModule) for module in autoencoder.modules()):
            hashes = autoencoder.pin_hashes()
            if not hashes:
                return None
            hasher.update(json.dumps(hashes, sort_keys=True, default=str).encode())
        for name, tensor in autoencoder.state_dict().items():
            hasher.update(f"{name} {tensor_digest(tensor)}".encode())
    return hasher.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """64 hexadecimal digits that change whenever a number, the shape or the format does."""
    cpu_tensor = tensor.detach().cpu().contiguous()
    hasher = hashlib.blake2b(f"{cpu_tensor.dtype} {tuple(cpu_tensor.shape)} ".encode(), digest_size=32)
    hasher.update(cpu_tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if cpu_tensor.numel() else b"")
    return hasher.hexdigest()


class CachedConditioner(Conditioner):
    """A frozen conditioner that remembers what it said of each value (a string, a number, bytes).

    Every distinct value is read alone, whether or not there is room to keep it: its neighbours in a batch would change
    the last bits of matrix products, numbers would then depend on what was met before, and a resumed run would no
    longer repeat itself bit for bit. When the room is full nothing more is kept, rather than the oldest dropped: an
    epoch meets every value about once, and the oldest is the one that comes next.

    Args:
        conditioner: its weights stand still, and the same value always gives the same condition.
        room: bytes that may be kept, on the device where the conditions are made; 0 keeps nothing.
        shelf: where texts are kept on disk as well, for a conditioner that has a `fingerprint`; None: nowhere.
    """

    def __init__(self, conditioner: Conditioner, max_bytes: int, disk_cache: DiskCache | None = None) -> None:
        self.conditioner, self.bytes_left = conditioner, max_bytes
        self._fingerprint = (conditioner.fingerprint() if disk_cache is not None else None) or ""
        self.disk_cache = disk_cache if self._fingerprint else None
        self.cross_attention_dim, self.pooled_dim = conditioner.cross_attention_dim, conditioner.pooled_dim
        self._cache: dict[Hashable, Condition] = {}
        self._null: Condition | None = None

    def encode(self, values: Sequence[Any]) -> Condition:
        """One value an item -> the condition of a batch, without gradient."""
        keys = [_value_key(value) for value in values]
        conditions = {key: self._lookup(key, value) for key, value in dict(zip(keys, values, strict=True)).items()}
        return stack([conditions[key] for key in keys])

    def null_condition(self, batch: int) -> Condition:
        """The conditioner's own silence, made once."""
        if self._null is None:
            self._null = self._load_or_compute(None, lambda: self.conditioner.null_condition(1))
        return select(self._null, torch.zeros(batch, dtype=torch.int64))

    def _lookup(self, key: Hashable, value: Any) -> Condition:
        if key in self._cache:
            return self._cache[key]
        condition = self._compute(value)
        size = _num_bytes(condition)
        if size <= self.bytes_left and not isinstance(key, _UniqueKey):
            self._cache[key] = condition
            self.bytes_left -= size
        return condition

    def _compute(self, value: Any) -> Condition:
        if isinstance(value, str):
            return self._load_or_compute(value, lambda: self.conditioner.encode([value]))
        with torch.no_grad():
            return self.conditioner.encode([value])

    def _load_or_compute(self, text: str | None, compute: Callable[[], Condition]) -> Condition:
        """What is on the shelf for a text (None: silence), or what is made now and put there."""
        if self.disk_cache is None:
            with torch.no_grad():
                return compute()
        condition = self.disk_cache.get(self._fingerprint, text)
        if condition is None:
            with torch.no_grad():
                condition = compute()
            self.disk_cache.put(self._fingerprint, text, condition)
        return condition


def cache_conditioners(
    conditioners: Mapping[str, Conditioner], max_bytes: int, disk_cache: DiskCache | None = None
) -> dict[str, Conditioner]:
    """The conditioners of a run, those that are costly and frozen with a memory; they share `room` bytes.

    A conditioner says that it is costly by an attribute `costly = True`, for instance one that reads text with a large
    pretrained network. One that is trained but asks such others (`exchanged`) asks them through their memories. The
    rest are asked as ever: for a cheap one, reading a whole batch at once is the faster way.
    """
    cacheable: list[Conditioner] = []

    def collect(one: Conditioner) -> Conditioner:
        cacheable.append(one)
        return one

    for conditioner in conditioners.values():
        _map_cacheable(conditioner, collect)
    return {
        name: _map_cacheable(c, lambda one: CachedConditioner(one, max_bytes // len(cacheable), disk_cache))
        for name, c in conditioners.items()
    }


def _map_cacheable(conditioner: Conditioner, transform: Callable[[Conditioner], Conditioner]) -> Conditioner:
    """A conditioner, or what it asks, exchanged where a memory is worth its room."""
    if not conditioner.cacheable:
        return conditioner
    if _is_frozen(conditioner):
        return transform(conditioner)
    return conditioner.map_children(lambda one: _map_cacheable(one, transform))


class _UniqueKey:
    """The key of a value that cannot be compared cheaply, such as a picture; equal to nothing but itself."""


def _value_key(value: Any) -> Hashable:
    # 1, 1.0 and True are equal as keys, and need not say the same
    return (type(value), value) if isinstance(value, (str, bytes, int, float)) else _UniqueKey()


def _is_frozen(conditioner: Conditioner) -> bool:
    return not isinstance(conditioner, nn.Module) or not any(p.requires_grad for p in conditioner.parameters())


def _num_bytes(condition: Condition) -> int:
    reference = condition.reference
    tensors = [condition.context, condition.context_mask, condition.pooled]
    tensors += [] if reference is None else [reference.values, reference.positions, reference.mask]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
