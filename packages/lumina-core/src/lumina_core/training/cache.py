"""Cache of what frozen networks compute: conditions of text encoders, latents of autoencoders."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumina_core.conditioning.ops import select, stack
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file, new_dir
from lumina_core.pretrained import FrozenModule
from lumina_core.protocols import Autoencoder, Conditioner
from lumina_core.types import Condition, Tokens

NamedTensors = Mapping[str, Tensor]

ENCODE_BATCH_SIZE = 64
"""Most items that a frozen network encodes at once on a GPU."""


class Cache:
    """Tensors by key, in memory and optionally in a folder of safetensors files.

    A full cache adds nothing more, instead of deleting the oldest entries: an epoch reads every item about once, so the
    oldest entry is the next one to be read. Several runs and processes may share the folder: files are written
    atomically, and an unreadable file counts as missing.

    Args:
        memory_bytes: capacity in memory, in bytes.
        folder: folder of the files, created if it is missing; None for memory alone.
        disk_bytes: capacity of the folder, in bytes, including the files that it contains already.
        device: device of tensors that are read from files.

    Raises:
        ConfigError: the folder cannot be created.
    """

    def __init__(
        self, memory_bytes: int, folder: Path | None = None, disk_bytes: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.memory_left, self.disk_left = memory_bytes, disk_bytes
        self.folder, self.device = folder, device
        self._memory: dict[tuple[str, str], NamedTensors] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.disk_left -= sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
            except OSError as error:
                raise ConfigError(
                    f"training.cache_dir: got {folder}, expected a folder ({error.strerror or error}). "
                    "Choose another one."
                ) from error

    def get_or_compute(
        self,
        namespace: str,
        keys: Sequence[str | None],
        compute: Callable[[list[int]], Sequence[NamedTensors]],
        on_disk: bool = True,
    ) -> list[NamedTensors]:
        """Look up entries, and compute all missing ones in one call.

        Args:
            namespace: fingerprint of the weights and options that determine the values.
            keys: one per item; equal keys are computed once. Items without a key are computed and not stored.
            compute: computes the values of the items at the indices that it gets.
            on_disk: whether the folder is used for these entries.
        """
        found = {key: self._lookup(namespace, key, on_disk) for key in dict.fromkeys(keys) if key is not None}
        first_index = {key: index for index, key in reversed(list(enumerate(keys))) if key is not None}
        missing = [i for i, key in enumerate(keys) if key is None or (found[key] is None and first_index[key] == i)]
        computed = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        for index, tensors in computed.items():
            key = keys[index]
            if key is not None:
                found[key] = tensors
                self._store(namespace, key, tensors)
                if on_disk:
                    self._write(namespace, key, tensors)
        entries = [computed[i] if key is None else found[key] for i, key in enumerate(keys)]
        return [entry for entry in entries if entry is not None]

    def _lookup(self, namespace: str, key: str, on_disk: bool) -> NamedTensors | None:
        if (namespace, key) in self._memory or self.folder is None or not on_disk:
            return self._memory.get((namespace, key))
        try:
            tensors = load_file(self._path(self.folder, namespace, key), str(self.device))
        except (OSError, SafetensorError):
            return None
        self._store(namespace, key, tensors)
        return tensors

    def _store(self, namespace: str, key: str, tensors: NamedTensors) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size <= self.memory_left:
            self._memory[namespace, key] = tensors
            self.memory_left -= size

    def _write(self, namespace: str, key: str, tensors: NamedTensors) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values()) + 1024
        if self.folder is None or size > self.disk_left:
            return
        path = self._path(self.folder, namespace, key)
        try:
            with new_dir(path.parent), atomic_file(path) as partial:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
            self.disk_left -= path.stat().st_size
        except (OSError, SafetensorError):  # a full disk does not stop a training
            self.disk_left = 0

    @staticmethod
    def _path(folder: Path, namespace: str, key: str) -> Path:
        return folder / namespace[:32] / key[:2] / f"{key}.safetensors"


def encode_batch_size(device: torch.device) -> int:
    """Return how many missing items are encoded at once: one on a CPU, so that a resumed run is bit-exact.

    The rounding of a matrix product depends on the other rows of a batch, and which items are missing depends on the
    steps before. On a GPU, batches are several times faster and a resumed run is equal up to rounding.
    """
    return 1 if device.type == "cpu" else ENCODE_BATCH_SIZE


class CachedConditioner(Conditioner):
    """Conditioner in front of a frozen one that looks up conditions in a cache.

    Args:
        conditioner: frozen; the same value always has the same condition.
        cache: may be shared with others.
        namespace: key of the conditioner in memory, for example its field; on disk its `fingerprint` is the key.
        batch_size: number of missing values that are encoded at once.
    """

    def __init__(self, conditioner: Conditioner, cache: Cache, namespace: str, batch_size: int = 1) -> None:
        self.conditioner, self.cache, self.batch_size = conditioner, cache, batch_size
        self.cross_attention_dim, self.pooled_dim = conditioner.cross_attention_dim, conditioner.pooled_dim
        fingerprint = None if cache.folder is None else conditioner.fingerprint()
        self._on_disk, self._namespace = fingerprint is not None, fingerprint or namespace
        self._null: Condition | None = None

    def encode(self, values: Sequence[Any]) -> Condition:
        """Return the condition of a batch, without gradient."""
        return stack(self._conditions([_value_key(value) for value in values], values))

    def null_condition(self, batch: int) -> Condition:
        """Return the conditioner's null condition, computed once."""
        if self._null is None:
            (self._null,) = self._conditions(["null"], [None])
        return select(self._null, torch.zeros(batch, dtype=torch.int64))

    def _conditions(self, keys: Sequence[str | None], values: Sequence[Any]) -> list[Condition]:
        def compute(indices: list[int]) -> list[NamedTensors]:
            with torch.no_grad():
                if keys[0] == "null":
                    return [_condition_to_tensors(self.conditioner.null_condition(1))]
                chunks = [indices[k : k + self.batch_size] for k in range(0, len(indices), self.batch_size)]
                encoded = [self.conditioner.encode([values[index] for index in chunk]) for chunk in chunks]
            return [
                _condition_to_tensors(row)
                for condition, chunk in zip(encoded, chunks, strict=True)
                for row in _rows(condition, len(chunk))
            ]

        entries = self.cache.get_or_compute(self._namespace, keys, compute, self._on_disk)
        return [_condition_from_tensors(entry) for entry in entries]


def cache_conditioners(
    conditioners: Mapping[str, Conditioner], cache: Cache, batch_size: int = 1
) -> dict[str, Conditioner]:
    """Put the cache in front of conditioners that are frozen and slow (`cacheable`).

    In a conditioner that is trained but reads others (`map_children`), the frozen ones among them get the cache. Other
    conditioners stay as they are: encoding a batch costs less than looking up its items.
    """

    def wrap(conditioner: Conditioner, namespace: str) -> Conditioner:
        if not conditioner.cacheable:
            return conditioner
        if not isinstance(conditioner, nn.Module) or not any(p.requires_grad for p in conditioner.parameters()):
            return CachedConditioner(conditioner, cache, namespace, batch_size)
        numbers = itertools.count()
        return conditioner.map_children(lambda child: wrap(child, f"{namespace}.{next(numbers)}"))

    return {field: wrap(conditioner, field) for field, conditioner in conditioners.items()}


class LatentCache:
    """Encoder of data in front of a frozen autoencoder that looks up latents in a cache, by the content of the data.

    Args:
        autoencoder: frozen.
        spec: the autoencoder in the recipe.
        cache: may be shared with others.
        precision: device and dtype of the computation, such as "cpu bfloat16"; part of the key.
        batch_size: number of missing items that are encoded at once.

    Raises:
        ConfigError: the autoencoder is trained.
    """

    def __init__(
        self, autoencoder: Autoencoder, spec: ComponentSpec, cache: Cache, precision: str, batch_size: int = 1
    ) -> None:
        if isinstance(autoencoder, nn.Module) and any(weight.requires_grad for weight in autoencoder.parameters()):
            raise ConfigError(
                "training.cache_latents: got true for an autoencoder that is trained, expected a frozen one. Add "
                "`autoencoder` to training.freeze, or set cache_latents: false."
            )
        self.autoencoder, self.cache, self.batch_size = autoencoder, cache, batch_size
        fingerprint = None if cache.folder is None else latent_fingerprint(autoencoder, spec, precision)
        self._on_disk, self._namespace = fingerprint is not None, fingerprint or "latents"

    def encode(self, data: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Encode data (channels, ...) of any sizes; returns one latent (1, C, ...) per item, without gradient."""

        def compute(indices: list[int]) -> list[NamedTensors]:
            latents: dict[int, Tensor] = {}
            by_shape: dict[torch.Size, list[int]] = {}
            for index in indices:
                by_shape.setdefault(data[index].shape, []).append(index)
            for group in by_shape.values():
                for chunk in (group[k : k + self.batch_size] for k in range(0, len(group), self.batch_size)):
                    with torch.no_grad():
                        encoded = self.autoencoder.encode(torch.stack([data[index] for index in chunk]).to(device))
                    latents |= dict(zip(chunk, encoded.split(1), strict=True))
            return [{"latent": latents[index]} for index in indices]

        keys = [tensor_digest(item) for item in data]
        return [entry["latent"] for entry in self.cache.get_or_compute(self._namespace, keys, compute, self._on_disk)]


def latent_fingerprint(autoencoder: Autoencoder, spec: ComponentSpec, precision: str) -> str | None:
    """Return a hash of what latents depend on besides the data: weights, options, precision.

    None if it is not available: the weights are external, and the autoencoder has no hash of them (`pin_hashes`).
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
    """Return a hash of 64 hexadecimal digits of a tensor's values, shape and dtype."""
    cpu_tensor = tensor.detach().cpu().contiguous()
    hasher = hashlib.blake2b(f"{cpu_tensor.dtype} {tuple(cpu_tensor.shape)} ".encode(), digest_size=32)
    hasher.update(cpu_tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if cpu_tensor.numel() else b"")
    return hasher.hexdigest()


def _value_key(value: Any) -> str | None:
    """Return the cache key of a value that a conditioner reads; None for one without a cheap content hash."""
    if isinstance(value, str):
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(value, (bytes, int, float)):  # 1, 1.0 and True are equal, and may differ in meaning
        return hashlib.sha256(f"{type(value).__name__} {value!r}".encode()).hexdigest()
    return None


def _rows(condition: Condition, count: int) -> list[Condition]:
    """Split a batch of conditions into items, without the padding of their context."""
    if count == 1:
        return [condition]
    rows = [select(condition, torch.tensor([index])) for index in range(count)]
    return [_without_padding(row) for row in rows]


def _without_padding(row: Condition) -> Condition:
    if row.context is None or row.context_mask is None:
        return row
    length = max(1, int(row.context_mask[0].nonzero().max()) + 1 if bool(row.context_mask.any()) else 1)
    return replace(row, context=row.context[:, :length].clone(), context_mask=row.context_mask[:, :length].clone())


def _condition_to_tensors(condition: Condition) -> NamedTensors:
    reference = condition.reference
    names = ("context", "context_mask", "pooled", "token_condition", "reference_condition", "token_positions")
    tensors: dict[str, Tensor | None] = {name: vars(condition)[name] for name in names}
    if reference is not None:
        tensors |= {"reference.values": reference.values, "reference.positions": reference.positions}
        tensors |= {"reference.mask": reference.mask, "reference.sizes": torch.tensor(reference.sizes)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _condition_from_tensors(tensors: NamedTensors) -> Condition:
    reference = None
    if "reference.values" in tensors:
        sizes = tuple(tuple(size) for size in tensors["reference.sizes"].tolist())
        reference = Tokens(
            tensors["reference.values"], tensors["reference.positions"], sizes, tensors.get("reference.mask")
        )
    return Condition(
        tensors.get("context"),
        tensors.get("context_mask"),
        tensors.get("pooled"),
        reference,
        token_condition=tensors.get("token_condition"),
        reference_condition=tensors.get("reference_condition"),
        token_positions=tensors.get("token_positions"),
    )
