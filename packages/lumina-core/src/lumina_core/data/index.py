"""Data sets of the items of a source, by an index: reference, name and size of every usable item, memory-mapped."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.data.captions import all_texts, sample_caption
from lumina_core.data.source import FileOrBytes, ItemRef, SkippedItem, Source
from lumina_core.errors import ConfigError, UnusableError, printable
from lumina_core.io import atomic_file, new_dir
from lumina_core.protocols import Dataset, Example

logger = logging.getLogger("lumina.data")

MeasureItem = Callable[[FileOrBytes, bool], tuple[int, int]]
"""Measure two numbers of an item, by decoding it (True) or by its header; raises UnusableError for an unusable item."""

DecodeItem = Callable[[FileOrBytes, int], Tensor]
"""(encoded item, its number in the index) -> data; raises UnusableError."""

MAX_LISTED = 8
"""Largest number of skipped items that a message names; `IndexedDataset.skipped` holds all of them."""

INDEX_VERSION = 2
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
        if len(index):  # a source without items is an error, which leaves nothing behind
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
        with new_dir(file.parent), atomic_file(file) as partial:
            save_file(tensors, partial, {"state": state, "skipped": json.dumps(index.skipped)})
    except (OSError, SafetensorError) as error:
        logger.warning(
            "cannot save the index in %s (%s); every start scans all items again. Set dataset.index_dir to a writable "
            "folder.",
            file.parent,
            error,
        )


class IndexedDataset(Dataset):
    """Items of a source by index: base class of the data sets of a modality, which decode the items.

    Attributes:
        skipped: items that are not used, and the reasons.

    Args:
        component: name of the data set, for messages.
        item_noun: plural noun of the items, for messages: "images".
        source: the source.
        index: index of the source.

    Raises:
        ConfigError: no item is usable.
    """

    def __init__(self, component: str, item_noun: str, source: Source, index: ItemIndex) -> None:
        self._component, self._item_noun, self._source, self._index = component, item_noun, source, index
        self.skipped = list(index.skipped)
        self._item_numbers = self._select_items()
        self._damaged: set[int] = set()
        if not len(self._item_numbers):
            reason = self.summary() if self.skipped else f"'{source.title}' is empty"
            raise ConfigError(f"{component}: nothing to train on: {reason}. {source.advice}")
        if self.skipped:
            logger.warning("%s", self.summary())

    def __len__(self) -> int:
        return len(self._item_numbers)

    def values(self, field: str) -> Sequence[Any]:
        """Return every `caption` or `file` name, each once, or the values of a further field of the source.

        Raises:
            ConfigError: there is no such field.
        """
        if field == "caption":
            all_captions = (self._source.captions(self._index.ref(number)) for number in self._item_numbers)
            return list(dict.fromkeys(text for captions in all_captions for text in all_texts(captions)))
        if field == "file":
            return [self._index.name(number) for number in self._item_numbers]
        values = self._source.values(field)
        if values is None:
            raise ConfigError(f"{self._component} lists the values of 'caption' and 'file', not of '{field}'")
        return values

    def read_groups(self) -> Sequence[int]:
        """Return the lengths of the read groups of the source; empty if it has none."""
        if not self._source.group_dims:
            return []
        group_keys = self._index.refs[self._item_numbers, : self._source.group_dims]
        edges = np.flatnonzero((group_keys[1:] != group_keys[:-1]).any(1)) + 1
        lengths: list[int] = np.diff([0, *edges.tolist(), len(group_keys)]).tolist()
        return lengths

    def summary(self) -> str:
        """Describe in one line how many items are used, how many were skipped, which and why."""
        used = len(self._item_numbers) - len(self._damaged)
        if not self.skipped:
            return f"{self._source.title}: {used} {self._item_noun}, none skipped"
        listed = "; ".join(f"{printable(name)} ({printable(reason)})" for name, reason in self.skipped[:MAX_LISTED])
        remainder = f"; and {len(self.skipped) - MAX_LISTED} more" if len(self.skipped) > MAX_LISTED else ""
        return f"{self._source.title}: {used} {self._item_noun}, {len(self.skipped)} skipped: {listed}{remainder}"

    def _select_items(self) -> np.ndarray:
        """Return the index numbers of the items to use; a subclass appends the others to `skipped`."""
        return np.arange(len(self._index))

    def _get_item(self, index: int, field: str, rng: random.Random, decode: DecodeItem) -> Example:
        """Read an item: its decoded data under `field`, `caption`, `file`, and the further fields of the source.

        The next readable item replaces a damaged one. It depends on the index and the random numbers alone, not on what
        this process has met before, so that a resumed training reads the same.

        Raises:
            ConfigError: no item can be read any more.
        """
        state = rng.getstate()
        for position in itertools.chain(range(index, len(self)), range(index)):
            rng.setstate(state)
            example = self._read_item(position, field, rng, decode)
            if example is not None:
                return example
        raise ConfigError(
            f"{self._component}: no {self._item_noun.removesuffix('s')} of '{self._source.title}' can be read any more"
        )

    def _read_item(self, index: int, field: str, rng: random.Random, decode: DecodeItem) -> Example | None:
        number = int(self._item_numbers[index])
        ref, name = self._index.ref(number), self._index.name(number)
        try:
            captions, extra_fields = self._source.captions(ref), self._source.extra_fields(ref)
            data = decode(self._source.fetch(ref), number)
        except UnusableError as error:
            if index not in self._damaged:
                self._damaged.add(index)
                self.skipped.append(SkippedItem(name, str(error)))
                logger.warning("skipped: %s (%s); %d skipped in all", printable(name), error, len(self.skipped))
            return None
        return {field: data, "caption": sample_caption(captions, rng), "file": name, **extra_fields}
