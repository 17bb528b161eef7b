"""Safetensors files, single or in shards: memory-mapped for reading, written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import (
    InMemoryTensor,
    LazyTensor,
    Weights,
    check_finite,
    num_bytes,
    read_tensor,
)
from lumina_core.errors import CheckpointError
from lumina_core.io import describe_content

INDEX_SUFFIX = ".safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Default of the largest number of bytes of weights in one file."""
MAX_INDEX_BYTES = 1 << 25
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


SHARDED_DIR, SHARDED_INDEX_FILE = "sharded", "index.json"
"""Folder of a checkpoint whose tensors lie in parts, and its index; see `lumina_core.checkpoint.sharded`."""
MODEL_PREFIX, EMA_PREFIX, OPTIMIZER_PREFIX = "model/", "ema/", "optimizer/"
"""Beginnings of the names of weights, their averages, and optimizer states."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a safetensors file, or some of its rows."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Any
    first_row: int | None = None

    def copy_to(self, target: Tensor) -> None:
        # a map of its own: it is closed at once, so that the pages of a large file do not add up in memory
        with safe_open(self.path, "pt") as file:
            target.copy_(self._view(file))

    def load(self) -> Tensor:
        return self._view(self.file)

    def slice_rows(self, start: int, stop: int) -> FileTensor:
        first_row = start + (self.first_row or 0)
        return replace(self, shape=(stop - start, *self.shape[1:]), first_row=first_row)

    def _view(self, file: Any) -> Tensor:
        tensor: Tensor = file.get_tensor(self.name)
        return tensor if self.first_row is None else tensor[self.first_row : self.first_row + self.shape[0]]


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Open the tensors of one file; no values are read.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors file (a pickle of this name, for example).
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        file: Any = safe_open(path, "pt")
        views = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = describe_content(path) or " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: got a truncated or invalid file ({reason}), expected safetensors. Download or save it again."
        ) from error
    return {name: FileTensor(path, name, tuple(view.shape), view.dtype, file) for name, view in views.items()}


def is_sharded_dir(folder: Path) -> bool:
    """Return whether a checkpoint holds tensors in parts."""
    return (folder / SHARDED_DIR / SHARDED_INDEX_FILE).is_file()


def open_weights(folder: Path, stem: str) -> dict[str, LazyTensor]:
    """Open `<stem>.safetensors`, or the shards in `<stem>.safetensors.index.json`.

    Raises:
        CheckpointError: neither exists, a shard is missing or truncated, or a tensor of the index is in no shard.
    """
    single_file, index = folder / f"{stem}.safetensors", folder / f"{stem}{INDEX_SUFFIX}"
    return open_safetensors(single_file) if single_file.is_file() or not index.is_file() else open_shards(index)


def open_shards(index: Path) -> dict[str, LazyTensor]:
    """Open the shards in an index file; they lie in its folder.

    Raises:
        CheckpointError: a shard is missing or truncated, or a tensor of the index is in no shard.
    """
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"larger than {MAX_INDEX_BYTES} bytes")
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or any(Path(file).name != file for file in weight_map.values()):
            raise ValueError("no map from tensor names to names of files in the same folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of shards ({error}). Download it again.") from error
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{index}: missing shards {', '.join(missing[:3])}{more}. Download them.")
    shards = {file: open_safetensors(index.parent / file) for file in files}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise CheckpointError(f"{index}: {file} does not hold the tensor {name}. Download both again.")
    return {name: shards[file][name] for name, file in weight_map.items()}


def has_weights(folder: Path, stem: str) -> bool:
    """Return whether a folder holds weights of this name, in one file or in shards."""
    return (folder / f"{stem}.safetensors").is_file() or (folder / f"{stem}{INDEX_SUFFIX}").is_file()


def write_weights(
    path: Path,
    weights: Weights,
    max_shard_bytes: int | None = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
    only_finite: bool = True,
) -> None:
    """Write `<path>.safetensors`, or shards and an index if the weights are larger than one shard.

    Args:
        path: existing folder and stem, without suffix.
        max_shard_bytes: largest number of bytes per shard; a larger tensor has a shard of its own. None: one file.
        on_bytes_written: called with the number of bytes after each tensor.
        only_finite: refuse NaN and Inf.

    Raises:
        CheckpointError: a tensor holds NaN or Inf.
    """
    folder, stem = path.parent, path.name
    shards = [dict(weights)] if max_shard_bytes is None else _split_into_shards(weights, max_shard_bytes)
    if len(shards) == 1:
        _write_file(folder / f"{stem}.safetensors", weights, on_bytes_written, only_finite)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, on_bytes_written, only_finite)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(map(num_bytes, weights.values()))
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}{INDEX_SUFFIX}").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _split_into_shards(weights: Weights, max_bytes: int) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    room = max_bytes
    for name, tensor in weights.items():
        if num_bytes(tensor) > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= num_bytes(tensor)
    return shards


def _write_file(
    path: Path, weights: Weights, on_bytes_written: Callable[[int], None] | None, only_finite: bool
) -> None:
    """Write one file. Only one tensor at a time is in memory, unlike with `safetensors.torch.save_file`."""
    # large element sizes first, so that every tensor is aligned
    ordered = sorted(weights.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in ordered:
        end = offset + num_bytes(tensor)
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            loaded = tensor.load() if type(tensor) is InMemoryTensor else read_tensor(tensor)
            if only_finite:
                check_finite(loaded, name, path.parent.name)
            values: Any = loaded.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(values)
            if on_bytes_written is not None:
                on_bytes_written(num_bytes(tensor))
