"""The built-in pack of emoji, pictures and captions, as it lies in the package; data/emoji/card.md describes it."""

from __future__ import annotations

import functools
import gzip
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # at run time only from Python 3.11 on

SIDE = 64

Record = dict[str, Any]


@functools.lru_cache(maxsize=1)
def records() -> tuple[Record, ...]:
    """One record a picture, in the order of the pictures.

    Keys: `key` (the characters, without U+FE0F), `code`, `base` (code of its base emoji), `group`, `subgroup`, `skin`
    (tones, or None for a base), `hair`, `left_out`, `captions` (language -> {"name", "keywords"}).
    """
    text = gzip.decompress((_folder() / "captions.jsonl.gz").read_bytes()).decode("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@functools.lru_cache(maxsize=1)
def pictures() -> NDArray[np.uint8]:
    """All pictures, (N, 64, 64, 3), on white; decoded once, not to be written to."""
    sheets = sorted(path.name for path in _folder().iterdir() if path.name.startswith("pictures-"))
    cells = np.concatenate([_cells((_folder() / name).read_bytes()) for name in sheets])[: len(records())]
    cells.setflags(write=False)
    return cells


@functools.lru_cache(maxsize=2)
def resized(side: int) -> NDArray[np.uint8]:
    """All pictures at another side, (N, side, side, 3)."""
    if side == SIDE:
        return pictures()
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures()])


def languages() -> tuple[str, ...]:
    """The languages of the captions, English first."""
    return tuple(records()[0]["captions"])


def _folder() -> Traversable:
    return files("lumina_image") / "data" / "emoji"


def _cells(sheet: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    cut = pixels.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cut.reshape(rows * columns, SIDE, SIDE, 3))
