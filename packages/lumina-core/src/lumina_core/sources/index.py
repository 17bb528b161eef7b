"""What is in a source, written down once: where every item is and how large, in a file that is mapped, not read."""

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

from lumina_core.files import whole_file
from lumina_core.sources.source import Found, Held, Place, Skipped, Source
from lumina_core.sources.unusable import UnusableError

logger = logging.getLogger("lumina.sources")

Measure = Callable[[Held, bool], tuple[int, int]]
"""Two numbers of an item, decoded whole (True) or by its header; raises UnusableError for one that cannot be used."""

VERSION = 1
"""Of the form of the file; one of another form is made anew."""


@dataclass(frozen=True)
class Index:
    """Every usable item of a source by its number, in the source's order.

    Attributes:
        places: (N, K) int64, what the source finds an item by.
        sizes: (N, 2) int32, what was measured of each: width and height, or rate and length.
        ends: (N,) int64, where each name ends in `names`.
        names: (C,) uint8, all names one after another in UTF-8.
        skipped: what is not used, and why.
    """

    places: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.ends)

    def place(self, number: int) -> Place:
        """Where an item is."""
        return tuple(int(one) for one in self.places[number])

    def size(self, number: int) -> tuple[int, int]:
        """What was measured of an item."""
        return int(self.sizes[number, 0]), int(self.sizes[number, 1])

    def name(self, number: int) -> str:
        """What an item is called."""
        begin = int(self.ends[number - 1]) if number else 0
        return self.names[begin : int(self.ends[number])].tobytes().decode("utf-8", "replace")


def index_of(
    source: Source, measure: Measure, bounds: Mapping[str, Any], decode_first: int, kept_in: Path | None
) -> Index:
    """The index of a source: read where it was kept and nothing changed since, else made, and kept where it can be.

    Args:
        measure: what is written down of an item, from the whole of it or from its header alone.
        bounds: what `measure` depends on but the item, by names of settings.
        decode_first: up to so many items are decoded whole; of more only the headers are read.
        kept_in: a folder; None: it is not kept.
    """
    thorough = source.count() <= decode_first
    if kept_in is None:
        return _made(source, measure, thorough)
    settings = {"version": VERSION, **bounds, "thorough": thorough, **source.settings()}
    file = kept_in / f"{_digest(settings)}.safetensors"
    state = json.dumps(source.state())
    known = _read(file, state)
    if known is not None:
        return known
    made = _made(source, measure, thorough)
    _keep(made, file, state)
    return made


def _made(source: Source, measure: Measure, thorough: bool) -> Index:
    # arrays of plain numbers: a list of tuples would need ten times the memory
    places, sizes, ends, names = array("q"), array("i"), array("q"), bytearray()
    skipped: list[Skipped] = []
    for found in source.scan():
        looked = _looked_at(found, measure, thorough) if isinstance(found, Found) else found
        if isinstance(looked, Skipped):
            skipped.append(looked)
        elif isinstance(found, Found):
            places.extend(found.place)
            sizes.extend(looked)
            names += found.name.encode("utf-8", "replace")
            ends.append(len(names))
    count = len(ends)
    return Index(
        np.array(places, dtype=np.int64).reshape(count, len(places) // max(count, 1)),
        np.array(sizes, dtype=np.int32).reshape(count, 2),
        np.array(ends, dtype=np.int64),
        np.array(names, dtype=np.uint8),
        skipped,
    )


def _looked_at(found: Found, measure: Measure, thorough: bool) -> tuple[int, int] | Skipped:
    try:
        return measure(found.held, thorough)
    except UnusableError as error:
        return Skipped(found.name, str(error))


def _read(file: Path, state: str) -> Index | None:
    """A kept index, its numbers mapped from the file; None where it is absent, damaged or of other data."""
    try:
        with safe_open(file, "pt") as opened:
            said = opened.metadata() or {}
            if said["state"] != state:
                return None
            arrays = {name: opened.get_tensor(name).numpy() for name in ("places", "sizes", "ends", "names")}
            return Index(**arrays, skipped=[Skipped(*one) for one in json.loads(said["skipped"])])
    except (OSError, SafetensorError, LookupError, ValueError, TypeError):
        return None


def _keep(index: Index, file: Path, state: str) -> None:
    names = ("places", "sizes", "ends", "names")
    tensors = {name: torch.from_numpy(np.array(getattr(index, name))) for name in names}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            save_file(tensors, partial, {"state": state, "skipped": json.dumps(index.skipped)})
    except (OSError, SafetensorError) as error:
        logger.warning(
            "what was found cannot be written down in %s (%s), so every start looks through everything again; "
            "name a folder that can be written: --set dataset.index=DIR", file.parent, error
        )  # fmt: skip


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
