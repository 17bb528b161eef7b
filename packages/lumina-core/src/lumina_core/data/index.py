"""Index of a source: reference, name and size of every usable item, in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lumina_core.data.source import FileOrBytes, ItemRef, SkippedItem, Source
from lumina_core.errors import UnusableError
from lumina_core.io import atomic_file

logger = logging.getLogger("lumina.data")

MeasureItem = Callable[[FileOrBytes, bool], tuple[int, int]]
"""Measure two numbers of an item, by decoding it (True) or by its header; raises UnusableError for an unusable item."""

INDEX_VERSION = 1
"""Version of the file format; an index of another version is rebuilt."""


@dataclass(frozen=True)
class ItemIndex:
    """Usable items of a source by number, in the order of the source.

    Attributes:
        refs: (N, K) int64, references by which the source finds the items.
        sizes: (N, 2) int32, measured numbers of each item: width and height, or length and rate.
        ends: (N,) int64, end of each name in `names`.
        names: (C,) uint8, all names concatenated, in UTF-8.
        skipped: items that are not used, and the reasons.
    """

    refs: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    skipped: list[SkippedItem]

    def __len__(self) -> int:
        return len(self.ends)

    def ref(self, number: int) -> ItemRef:
        """Return the reference of an item."""
        return tuple(self.refs[number].tolist())

    def size(self, number: int) -> tuple[int, int]:
        """Return the two measured numbers of an item."""
        return int(self.sizes[number, 0]), int(self.sizes[number, 1])

    def name(self, number: int) -> str:
        """Return the name of an item."""
        begin = int(self.ends[number - 1]) if number else 0
        return self.names[begin : int(self.ends[number])].tobytes().decode("utf-8", "replace")


def load_or_build_index(
    source: Source, measure: MeasureItem, bounds: Mapping[str, Any], validate_first: int, index_dir: Path | None
) -> ItemIndex:
    """Load the index of a source if settings and data are unchanged, else build and save it.

    Args:
        source: the source; an unchanged index is loaded without scanning or counting it.
        measure: function that measures an item.
        bounds: settings that `measure` depends on, by name.
        validate_first: largest number of items that are all decoded; of a larger source only the headers are read.
        index_dir: folder of the index; None: the index is not saved.
    """
    if index_dir is None:
        return _build_index(source, measure, validate_first)
    settings = {"version": INDEX_VERSION, **bounds, "validate_first": validate_first, **source.settings()}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    file, state = index_dir / f"{digest}.safetensors", json.dumps(source.state())
    index = _read_index(file, state)
    if index is None:
        index = _build_index(source, measure, validate_first)
        _save_index(index, file, state)
    return index


def _build_index(source: Source, measure: MeasureItem, validate_first: int) -> ItemIndex:
    full_decode = source.count() <= validate_first
    # arrays of plain numbers: a list of tuples would need ten times the memory
    refs, sizes, ends, names = array("q"), array("i"), array("q"), bytearray()
    skipped: list[SkippedItem] = []
    for item in source.scan():
        if isinstance(item, SkippedItem):
            skipped.append(item)
            continue
        try:
            sizes.extend(measure(item.content, full_decode))
        except UnusableError as error:
            skipped.append(SkippedItem(item.name, str(error)))
            continue
        refs.extend(item.ref)
        names += item.name.encode("utf-8", "replace")
        ends.append(len(names))
    count = len(ends)
    return ItemIndex(
        np.array(refs, dtype=np.int64).reshape(count, len(refs) // max(count, 1)),
        np.array(sizes, dtype=np.int32).reshape(count, 2),
        np.array(ends, dtype=np.int64),
        np.array(names, dtype=np.uint8),
        skipped,
    )


def _read_index(file: Path, state: str) -> ItemIndex | None:
    """Read a saved index with its arrays mapped from the file; None if absent, damaged or of other data."""
    try:
        with safe_open(file, "pt") as tensors_file:
            metadata = tensors_file.metadata() or {}
            if metadata["state"] != state:
                return None
            arrays = {name: tensors_file.get_tensor(name).numpy() for name in ("refs", "sizes", "ends", "names")}
            return ItemIndex(**arrays, skipped=[SkippedItem(*entry) for entry in json.loads(metadata["skipped"])])
    except (OSError, SafetensorError, LookupError, ValueError, TypeError):
        return None


def _save_index(index: ItemIndex, file: Path, state: str) -> None:
    arrays = {"refs": index.refs, "sizes": index.sizes, "ends": index.ends, "names": index.names}
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial:
            save_file(tensors, partial, {"state": state, "skipped": json.dumps(index.skipped)})
    except (OSError, SafetensorError) as error:
        logger.warning(
            "cannot save the index in %s (%s); every start scans all items again. Set dataset.index_dir to a writable "
            "folder.",
            file.parent,
            error,
        )
