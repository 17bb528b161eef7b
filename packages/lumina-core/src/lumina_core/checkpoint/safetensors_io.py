"""Files of tensors in the format of safetensors, whole or in shards: opened unread, written one tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor, Weights, as_bytes, num_bytes, read_tensor
from lumina_core.errors import CheckpointError

INDEX_SUFFIX = ".safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Bytes of weights a file at most, unless something else is asked."""
CONVERT_BUFFER_BYTES = 1 << 24
"""Bytes that are read at once where numbers change their form on the way."""

DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""What safetensors calls the number formats."""
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class FileTensor:
    """Numbers that lie one after another in a file, from the byte `start` on. `window` opens them without a copy."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    open_view: Callable[[], Tensor]

    def copy_to(self, target: Tensor) -> None:
        if target.dtype == self.dtype and target.is_contiguous():
            self._read_into(target)
            return
        if not self.shape or not math.prod(self.shape):
            target.copy_(self._read())
            return
        step = max(1, CONVERT_BUFFER_BYTES * self.shape[0] // num_bytes(self))
        for begin in range(0, self.shape[0], step):
            rows = self.slice_rows(begin, min(begin + step, self.shape[0]))
            target[begin : begin + step].copy_(rows._read())

    def load(self) -> Tensor:
        return self.open_view()

    def slice_rows(self, start: int, stop: int) -> FileTensor:
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        return FileTensor(self.path, self.start + start * row, shape, self.dtype, lambda: self.open_view()[start:stop])

    def _read(self) -> Tensor:
        target = torch.empty(self.shape, dtype=self.dtype)
        self._read_into(target)
        return target

    def _read_into(self, target: Tensor) -> None:
        buffer = memoryview(as_bytes(target))
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.start)
                while buffer:
                    count = file.readinto(buffer)
                    if not count:
                        raise CheckpointError(f"{self.path} has become shorter while it was read; fetch it again")
                    buffer = buffer[count:]
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror or error}") from error


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: the file is missing, cut short, or something else (a pickle, say) under this name.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        file = safe_open(path, "pt")
        with open(path, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header: dict[str, Any] = json.loads(raw.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is no whole safetensors file ({reason}); fetch or save the model again"
        ) from error
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: _file_tensor(path, file, 8 + length, name, entry) for name, entry in entries.items()}


def _file_tensor(path: Path, file: Any, data_start: int, name: str, entry: Mapping[str, Any]) -> FileTensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path}: {name} is stored as {entry['dtype']}, which cannot be read here")
    start = data_start + int(entry["data_offsets"][0])
    return FileTensor(path, start, tuple(entry["shape"]), dtype, lambda: file.get_tensor(name))


def open_weights(folder: Path, stem: str) -> dict[str, LazyTensor]:
    """The tensors of `<stem>.safetensors`, or of the shards that `<stem>.safetensors.index.json` lists.

    Raises:
        CheckpointError: there is neither; a shard is missing or cut short; the index names what the shards have not.
    """
    single_file, index = folder / f"{stem}.safetensors", folder / f"{stem}{INDEX_SUFFIX}"
    return open_safetensors(single_file) if single_file.is_file() or not index.is_file() else open_shards(index)


def open_shards(index: Path) -> dict[str, LazyTensor]:
    """The tensors of the shards that an index lists, beside which they lie.

    Raises:
        CheckpointError: a shard is missing or cut short; the index names what the shards have not.
    """
    folder, weight_map = index.parent, _weight_map(index)
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{index} names shards that are not there: {', '.join(missing[:3])}{more}; fetch them")
    shards = {file: open_safetensors(folder / file) for file in sorted(set(weight_map.values()))}
    not_in_shard = [name for name, file in weight_map.items() if name not in shards[file]]
    if not_in_shard:
        raise CheckpointError(
            f"{index} says that {weight_map[not_in_shard[0]]} holds {not_in_shard[0]}, but it does not; fetch it"
        )
    return {name: shards[file][name] for name, file in weight_map.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or any(Path(file).name != file for file in weight_map.values()):
            raise ValueError("no map from names to files beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of shards ({error}); fetch it again") from error
    return {str(name): str(file) for name, file in weight_map.items()}


def has_weights(folder: Path, stem: str) -> bool:
    """Whether weights of this name lie in a folder, whole or in shards."""
    return (folder / f"{stem}.safetensors").is_file() or (folder / f"{stem}{INDEX_SUFFIX}").is_file()


def split_into_shards(weights: Weights, max_bytes: int) -> list[dict[str, LazyTensor]]:
    """Weights in groups of at most `most` bytes, in their order; a tensor larger than that has a group of its own."""
    groups: list[dict[str, LazyTensor]] = []
    remaining = 0
    for name, tensor in weights.items():
        if not groups or num_bytes(tensor) > remaining:
            groups.append({})
            remaining = max_bytes
        groups[-1][name] = tensor
        remaining -= num_bytes(tensor)
    return groups or [{}]


def write_weights(
    path: Path,
    weights: Weights,
    max_shard_bytes: int | None = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
) -> None:
    """Write `<path>.safetensors`, or shards with an index where there are more than `most` bytes (None: one file).

    Args:
        path: folder and stem, without suffix; the folder is there.
        told: called with the number of bytes after each tensor.
    """
    folder, stem = path.parent, path.name
    groups = split_into_shards(weights, max_shard_bytes) if max_shard_bytes is not None else [dict(weights)]
    if len(groups) == 1:
        _write_safetensors(folder / f"{stem}.safetensors", weights, on_bytes_written)
        return
    files = [f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    for file, group in zip(files, groups, strict=True):
        _write_safetensors(folder / file, group, on_bytes_written)
    total = sum(num_bytes(tensor) for tensor in weights.values())
    weight_map = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}{INDEX_SUFFIX}").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_safetensors(path: Path, weights: Weights, on_bytes_written: Callable[[int], None] | None) -> None:
    """The format of safetensors, a tensor at a time: never more than one of them is in memory."""
    # wide formats first, so that every tensor lies at a multiple of its own width
    ordered = sorted(weights.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(_header_entries(ordered))}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in ordered:
            loaded = tensor.load() if isinstance(tensor, InMemoryTensor) else read_tensor(tensor)
            file.write(as_bytes(loaded.cpu().contiguous()))
            if on_bytes_written is not None:
                on_bytes_written(num_bytes(tensor))


def _header_entries(tensors: Sequence[tuple[str, LazyTensor]]) -> Iterator[tuple[str, dict[str, Any]]]:
    offset = 0
    for name, tensor in tensors:
        offsets = [offset, offset + num_bytes(tensor)]
        yield name, {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        offset = offsets[1]
