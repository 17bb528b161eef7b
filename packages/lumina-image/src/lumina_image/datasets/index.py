"""What is in a source, written down once: where every picture is and how large, in a file that is mapped, not read."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lumina_core.files import whole_file
from lumina_image.datasets.source import Found, Place, Skipped, Source
from lumina_image.pictures import PictureError, check_header, read_picture

logger = logging.getLogger("lumina.image")

VERSION = 1
"""Of the form of the file; one of another form is made anew."""


@dataclass(frozen=True)
class Index:
    """Every usable picture of a source by its number, in the source's order.

    Attributes:
        places: (N, K) int64, what the source finds a picture by.
        sizes: (N, 2) int32, width and height in pixels, upright.
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
        """Where a picture is."""
        return tuple(int(one) for one in self.places[number])

    def size(self, number: int) -> tuple[int, int]:
        """(width, height) of a picture."""
        return int(self.sizes[number, 0]), int(self.sizes[number, 1])

    def name(self, number: int) -> str:
        """What a picture is called."""
        begin = int(self.ends[number - 1]) if number else 0
        return self.names[begin : int(self.ends[number])].tobytes().decode("utf-8", "replace")


def index_of(source: Source, max_pixels: int, decode_first: int, kept_in: Path | None) -> Index:
    """The index of a source: read where it was kept and nothing changed since, else made, and kept where it can be.

    Args:
        max_pixels: larger pictures are skipped, by their header.
        decode_first: up to so many pictures are decoded whole; of more only the headers are read.
        kept_in: a folder; None: it is not kept.
    """
    thorough = source.count() <= decode_first
    if kept_in is None:
        return _made(source, max_pixels, thorough)
    settings = {"version": VERSION, "max_pixels": max_pixels, "thorough": thorough, **source.settings()}
    file = kept_in / f"{_digest(settings)}.safetensors"
    state = json.dumps(source.state())
    known = _read(file, state)
    if known is not None:
        return known
    made = _made(source, max_pixels, thorough)
    _keep(made, file, state)
    return made


def _made(source: Source, max_pixels: int, thorough: bool) -> Index:
    # arrays of plain numbers: a list of tuples would need ten times the memory
    places, sizes, ends, names = array("q"), array("i"), array("q"), bytearray()
    skipped: list[Skipped] = []
    for found in source.scan():
        looked = _looked_at(found, max_pixels, thorough) if isinstance(found, Found) else found
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


def _looked_at(found: Found, max_pixels: int, thorough: bool) -> tuple[int, int] | Skipped:
    try:
        return read_picture(found.held, max_pixels).size if thorough else check_header(found.held, max_pixels)
    except PictureError as error:
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
