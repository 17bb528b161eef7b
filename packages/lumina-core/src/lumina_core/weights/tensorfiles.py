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

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Held, Piece, Weights, as_bytes, read, size

INDEX = ".safetensors.index.json"
SHARD = 5 * 10**9
"""Bytes of weights a file at most, unless something else is asked."""
ROOM = 1 << 24
"""Bytes that are read at once where numbers change their form on the way."""

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""What safetensors calls the number formats."""
_FORMATS = {name: dtype for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class Stored:
    """Numbers that lie one after another in a file, from the byte `start` on. `window` opens them without a copy."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    window: Callable[[], Tensor]

    def into(self, target: Tensor) -> None:
        if target.dtype == self.dtype and target.is_contiguous():
            self._fill(target)
            return
        if not self.shape or not math.prod(self.shape):
            target.copy_(self._fresh())
            return
        step = max(1, ROOM * self.shape[0] // size(self))
        for begin in range(0, self.shape[0], step):
            part = self.rows(begin, min(begin + step, self.shape[0]))
            target[begin : begin + step].copy_(part._fresh())

    def tensor(self) -> Tensor:
        return self.window()

    def rows(self, start: int, stop: int) -> Stored:
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        return Stored(self.path, self.start + start * row, shape, self.dtype, lambda: self.window()[start:stop])

    def _fresh(self) -> Tensor:
        fresh = torch.empty(self.shape, dtype=self.dtype)
        self._fill(fresh)
        return fresh

    def _fill(self, target: Tensor) -> None:
        room = memoryview(as_bytes(target))
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.start)
                while room:
                    count = file.readinto(room)
                    if not count:
                        raise CheckpointError(f"{self.path} has become shorter while it was read; fetch it again")
                    room = room[count:]
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror or error}") from error


def open_file(path: Path) -> dict[str, Piece]:
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
    return {name: _stored(path, file, 8 + length, name, entry) for name, entry in entries.items()}


def _stored(path: Path, file: Any, begin: int, name: str, entry: Mapping[str, Any]) -> Stored:
    dtype = _FORMATS.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path}: {name} is stored as {entry['dtype']}, which cannot be read here")
    start = begin + int(entry["data_offsets"][0])
    return Stored(path, start, tuple(entry["shape"]), dtype, lambda: file.get_tensor(name))


def open_weights(folder: Path, stem: str) -> dict[str, Piece]:
    """The tensors of `<stem>.safetensors`, or of the shards that `<stem>.safetensors.index.json` lists.

    Raises:
        CheckpointError: there is neither; a shard is missing or cut short; the index names what the shards have not.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}{INDEX}"
    return open_file(whole) if whole.is_file() or not index.is_file() else open_index(index)


def open_index(index: Path) -> dict[str, Piece]:
    """The tensors of the shards that an index lists, beside which they lie.

    Raises:
        CheckpointError: a shard is missing or cut short; the index names what the shards have not.
    """
    folder, places = index.parent, _weight_map(index)
    lacking = sorted({file for file in places.values() if not (folder / file).is_file()})
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise CheckpointError(f"{index} names shards that are not there: {', '.join(lacking[:3])}{more}; fetch them")
    shards = {file: open_file(folder / file) for file in sorted(set(places.values()))}
    absent = [name for name, file in places.items() if name not in shards[file]]
    if absent:
        raise CheckpointError(f"{index} says that {places[absent[0]]} holds {absent[0]}, but it does not; fetch it")
    return {name: shards[file][name] for name, file in places.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not places or any(Path(file).name != file for file in places.values()):
            raise ValueError("no map from names to files beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of shards ({error}); fetch it again") from error
    return {str(name): str(file) for name, file in places.items()}


def stored_here(folder: Path, stem: str) -> bool:
    """Whether weights of this name lie in a folder, whole or in shards."""
    return (folder / f"{stem}.safetensors").is_file() or (folder / f"{stem}{INDEX}").is_file()


def shards(weights: Weights, most: int) -> list[dict[str, Piece]]:
    """Weights in groups of at most `most` bytes, in their order; a tensor larger than that has a group of its own."""
    groups: list[dict[str, Piece]] = []
    room = 0
    for name, piece in weights.items():
        if not groups or size(piece) > room:
            groups.append({})
            room = most
        groups[-1][name] = piece
        room -= size(piece)
    return groups or [{}]


def write_weights(
    path: Path, weights: Weights, most: int | None = SHARD, told: Callable[[int], None] | None = None
) -> None:
    """Write `<path>.safetensors`, or shards with an index where there are more than `most` bytes (None: one file).

    Args:
        path: folder and stem, without suffix; the folder is there.
        told: called with the number of bytes after each tensor.
    """
    folder, stem = path.parent, path.name
    groups = shards(weights, most) if most is not None else [dict(weights)]
    if len(groups) == 1:
        _write(folder / f"{stem}.safetensors", weights, told)
        return
    files = [f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    for file, group in zip(files, groups, strict=True):
        _write(folder / file, group, told)
    total = sum(size(piece) for piece in weights.values())
    places = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / f"{stem}{INDEX}").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, weights: Weights, told: Callable[[int], None] | None) -> None:
    """The format of safetensors, a tensor at a time: never more than one of them is in memory."""
    # wide formats first, so that every tensor lies at a multiple of its own width
    ordered = sorted(weights.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(_entries(ordered))}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, piece in ordered:
            held = piece.tensor() if isinstance(piece, Held) else read(piece)
            file.write(as_bytes(held.cpu().contiguous()))
            if told is not None:
                told(size(piece))


def _entries(ordered: Sequence[tuple[str, Piece]]) -> Iterator[tuple[str, dict[str, Any]]]:
    at = 0
    for name, piece in ordered:
        ends = [at, at + size(piece)]
        yield name, {"dtype": NAMES[piece.dtype], "shape": list(piece.shape), "data_offsets": ends}
        at = ends[1]
