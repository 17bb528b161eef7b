"""Tensors that several processes wrote in parts (DCP, torch.distributed.checkpoint), read on demand by any number.

The folder holds DCP's own files and index.json, which says where the parts of each tensor lie. DCP's .metadata, a
pickle, is never opened.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import LazyTensor, open_prefix, read_tensor
from lumina_core.checkpoint.safetensors_io import EMA_PREFIX, MODEL_PREFIX, SHARDED_DIR, SHARDED_INDEX_FILE
from lumina_core.errors import CheckpointError


@dataclass(frozen=True)
class TensorPart:
    """A part of a tensor in a file.

    Attributes:
        offsets, sizes: where the part lies in the tensor, per dimension.
        path: file that holds it.
        start, length: bytes of the file.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: Path
    start: int
    length: int

    def read(self) -> Tensor:
        """Read the values.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(self.length)
            tensor: Tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.path} is damaged ({reason}). Resume from another checkpoint.") from error
        return tensor


@dataclass(frozen=True)
class PartitionedTensor:
    """A tensor in parts, or some of its rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[TensorPart, ...]
    first_row: int = 0

    def copy_to(self, target: Tensor) -> None:
        if not self.shape:
            target.copy_(self.parts[0].read())
            return
        stop = self.first_row + self.shape[0]
        for part in self.parts:
            begin, end = max(part.offsets[0], self.first_row), min(part.offsets[0] + part.sizes[0], stop)
            if begin >= end or not all(part.sizes):
                continue
            values = part.read().narrow(0, begin - part.offsets[0], end - begin)
            region = target.narrow(0, begin - self.first_row, end - begin)
            for dim, (offset, size) in enumerate(zip(part.offsets[1:], part.sizes[1:], strict=True), start=1):
                region = region.narrow(dim, offset, size)
            region.copy_(values)

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> PartitionedTensor:
        return replace(self, shape=(stop - start, *self.shape[1:]), first_row=self.first_row + start)


def write_index(folder: Path, tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Write index.json of a folder of DCP files.

    Args:
        tensors: by name {"dtype": "float32", "shape": [...], "parts": [[offsets, sizes, file, start, length], ...]}.
    """
    content = {"version": 1, "tensors": tensors}
    (folder / SHARDED_INDEX_FILE).write_text(json.dumps(content), encoding="utf-8")


def open_sharded(folder: Path) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint by their names in its index; no values are read.

    Raises:
        CheckpointError: the index is damaged, or a file is missing or truncated.
    """
    directory = folder / SHARDED_DIR
    try:
        content = json.loads((directory / SHARDED_INDEX_FILE).read_text(encoding="utf-8"))
        tensors: dict[str, LazyTensor] = {}
        files: dict[str, int] = {}
        for name, entry in content["tensors"].items():
            parts = []
            for offsets, sizes, file, start, length in entry["parts"]:
                if Path(file).name != file:
                    raise ValueError(f"{file} is no name of a file in the same folder")
                files[file] = max(files.get(file, 0), start + length)
                parts.append(TensorPart(tuple(offsets), tuple(sizes), directory / file, start, length))
            dtype = getattr(torch, entry["dtype"])
            if not isinstance(dtype, torch.dtype) or not parts:
                raise ValueError(f"{name} has no parts or no dtype")
            tensors[name] = PartitionedTensor(tuple(entry["shape"]), dtype, tuple(parts))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory / SHARDED_INDEX_FILE} cannot be read ({error}).") from error
    for file, size in files.items():
        path = directory / file
        found = path.stat().st_size if path.is_file() else None
        if found is None or found < size:
            state = "is missing" if found is None else f"has {found} of {size} bytes"
            raise CheckpointError(f"{path} {state}: the checkpoint is incomplete. Copy the file again.")
    return tensors


def open_averages(folder: Path) -> dict[str, LazyTensor]:
    """Open the weights of a checkpoint with the averages in their place."""
    tensors = open_sharded(folder)
    return {**open_prefix(tensors, MODEL_PREFIX), **open_prefix(tensors, EMA_PREFIX)}
