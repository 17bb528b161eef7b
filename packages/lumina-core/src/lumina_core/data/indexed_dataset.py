"""What is in a source, written down once: where every item is and how large, in a file that is mapped, not read."""

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

from lumina_core.data.source import FileOrBytes, Item, ItemRef, SkippedItem, Source, all_texts, sample_caption
from lumina_core.errors import ConfigError, UnusableError
from lumina_core.io import atomic_file
from lumina_core.protocols import Dataset, Example

logger = logging.getLogger("lumina.data")

MeasureItem = Callable[[FileOrBytes, bool], tuple[int, int]]
"""Two numbers of an item, decoded whole (True) or by its header; raises UnusableError for one that cannot be used."""

INDEX_VERSION = 1
"""Of the form of the file; one of another form is made anew."""


@dataclass(frozen=True)
class ItemIndex:
    """Every usable item of a source by its number, in the source's order.

    Attributes:
        places: (N, K) int64, what the source finds an item by.
        sizes: (N, 2) int32, what was measured of each: width and height, or rate and length.
        ends: (N,) int64, where each name ends in `names`.
        names: (C,) uint8, all names one after another in UTF-8.
        skipped: what is not used, and why.
    """

    refs: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    skipped: list[SkippedItem]

    def __len__(self) -> int:
        return len(self.ends)

    def ref(self, number: int) -> ItemRef:
        """Where an item is."""
        return tuple(int(one) for one in self.refs[number])

    def size(self, number: int) -> tuple[int, int]:
        """What was measured of an item."""
        return int(self.sizes[number, 0]), int(self.sizes[number, 1])

    def name(self, number: int) -> str:
        """What an item is called."""
        begin = int(self.ends[number - 1]) if number else 0
        return self.names[begin : int(self.ends[number])].tobytes().decode("utf-8", "replace")


def load_or_build_index(
    source: Source, measure: MeasureItem, bounds: Mapping[str, Any], validate_first: int, index_dir: Path | None
) -> ItemIndex:
    """The index of a source: read where it was kept and nothing changed since, else made, and kept where it can be.

    Args:
        measure: what is written down of an item, from the whole of it or from its header alone.
        bounds: what `measure` depends on but the item, by names of settings.
        decode_first: up to so many items are decoded whole; of more only the headers are read.
        kept_in: a folder; None: it is not kept.
    """
    full_decode = source.count() <= validate_first
    if index_dir is None:
        return _build_index(source, measure, full_decode)
    settings = {"version": INDEX_VERSION, **bounds, "full_decode": full_decode, **source.settings()}
    file = index_dir / f"{_settings_digest(settings)}.safetensors"
    state = json.dumps(source.state())
    cached = _read_index(file, state)
    if cached is not None:
        return cached
    built = _build_index(source, measure, full_decode)
    _save_index(built, file, state)
    return built


def _build_index(source: Source, measure: MeasureItem, full_decode: bool) -> ItemIndex:
    # arrays of plain numbers: a list of tuples would need ten times the memory
    refs, sizes, ends, names = array("q"), array("i"), array("q"), bytearray()
    skipped: list[SkippedItem] = []
    for item in source.scan():
        measured = _measure_item(item, measure, full_decode) if isinstance(item, Item) else item
        if isinstance(measured, SkippedItem):
            skipped.append(measured)
        elif isinstance(item, Item):
            refs.extend(item.ref)
            sizes.extend(measured)
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


def _measure_item(item: Item, measure: MeasureItem, full_decode: bool) -> tuple[int, int] | SkippedItem:
    try:
        return measure(item.content, full_decode)
    except UnusableError as error:
        return SkippedItem(item.name, str(error))


def _read_index(file: Path, state: str) -> ItemIndex | None:
    """A kept index, its numbers mapped from the file; None where it is absent, damaged or of other data."""
    try:
        with safe_open(file, "pt") as tensors_file:
            metadata = tensors_file.metadata() or {}
            if metadata["state"] != state:
                return None
            arrays = {name: tensors_file.get_tensor(name).numpy() for name in ("refs", "sizes", "ends", "names")}
            return ItemIndex(**arrays, skipped=[SkippedItem(*one) for one in json.loads(metadata["skipped"])])
    except (OSError, SafetensorError, LookupError, ValueError, TypeError):
        return None


def _save_index(index: ItemIndex, file: Path, state: str) -> None:
    names = ("refs", "sizes", "ends", "names")
    tensors = {name: torch.from_numpy(np.array(getattr(index, name))) for name in names}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial:
            save_file(tensors, partial, {"state": state, "skipped": json.dumps(index.skipped)})
    except (OSError, SafetensorError) as error:
        logger.warning(
            "what was found cannot be written down in %s (%s), so every start looks through everything again; "
            "name a folder that can be written: --set dataset.index_dir=DIR", file.parent, error
        )  # fmt: skip


def _settings_digest(settings: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


DecodeItem = Callable[[FileOrBytes, int], Tensor]
"""What is held of an item, and its number in the index, as data; raises UnusableError."""

MAX_LISTED = 8
"""So many of the skipped are named in a message; all of them are in `skipped`."""


class IndexedDataset(Dataset):
    """Items of a source by index. A data set of some modality is this, and makes data of what is held.

    Args:
        part: name of the part, for messages.
        nouns: what the items are called there: pictures.
    """

    def __init__(self, component: str, item_noun: str, source: Source, index: ItemIndex) -> None:
        self._component, self._item_noun, self._source, self._index = component, item_noun, source, index
        self.skipped = list(index.skipped)
        self._item_numbers = self._select_items()
        self._damaged: set[int] = set()
        self._report_skipped()

    def __len__(self) -> int:
        return len(self._item_numbers)

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: every caption, each once. `file`: every name. Further fields are the source's.

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

    def weight(self, index: int) -> float:
        """1: every item is drawn equally often."""
        return 1.0

    def read_groups(self) -> list[int]:
        """How many examples in a row are cheaply read together, a stretch after another; empty: any order is alike."""
        if not self._source.group_dims:
            return []
        group_keys = self._index.refs[self._item_numbers, : self._source.group_dims]
        edges = np.flatnonzero((group_keys[1:] != group_keys[:-1]).any(1)) + 1
        return [int(one) for one in np.diff([0, *edges.tolist(), len(group_keys)])]

    def summary(self) -> str:
        """One line: how many items are used, how many were skipped, which and why."""
        used = len(self._item_numbers) - len(self._damaged)
        if not self.skipped:
            return f"{self._source.title}: {used} {self._item_noun}, none skipped"
        listed = "; ".join(f"{name} ({reason})" for name, reason in self.skipped[:MAX_LISTED])
        remainder = f"; and {len(self.skipped) - MAX_LISTED} more" if len(self.skipped) > MAX_LISTED else ""
        return f"{self._source.title}: {used} {self._item_noun}, {len(self.skipped)} skipped: {listed}{remainder}"

    def _select_items(self) -> np.ndarray:
        """The numbers of the items in the index that are used."""
        return np.arange(len(self._index))

    def _get_item(self, index: int, field: str, rng: random.Random, decode: DecodeItem) -> Example:
        """The data that `make` makes of an item as `field`, `caption`, `file`, and the source's own fields.

        An item that turns out to be damaged is skipped for good: the next whole one stands in.

        Raises:
            ConfigError: none can be read any more.
        """
        for position in itertools.chain(range(index, len(self)), range(index)):
            example = None if position in self._damaged else self._read_item(position, field, rng, decode)
            if example is not None:
                return example
        raise ConfigError(
            f"{self._component}: no {self._item_noun.removesuffix('s')} of '{self._source.title}' can be read any more"
        )

    def _read_item(self, index: int, field: str, rng: random.Random, decode: DecodeItem) -> Example | None:
        number = int(self._item_numbers[index])
        ref = self._index.ref(number)
        name = self._index.name(number)
        try:
            captions, extra_fields = self._source.captions(ref), self._source.extra_fields(ref)
            data = decode(self._source.fetch(ref), number)
        except UnusableError as error:
            self._damaged.add(index)
            self.skipped.append(SkippedItem(name, str(error)))
            logger.warning("skipped from now on: %s (%s); %d skipped in all", name, error, len(self.skipped))
            return None
        return {field: data, "caption": sample_caption(captions, rng), "file": name, **extra_fields}

    def _report_skipped(self) -> None:
        if not len(self._item_numbers):
            reason = self.summary() if self.skipped else f"'{self._source.title}' is empty"
            raise ConfigError(f"{self._component}: nothing to train on: {reason}. {self._source.advice}")
        if self.skipped:
            logger.warning("%s", self.summary())
