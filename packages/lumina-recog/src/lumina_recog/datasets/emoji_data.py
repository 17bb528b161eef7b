"""Packaged emoji in two drawing styles; data/emoji/card.md describes them."""

from __future__ import annotations

import functools
import gzip
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # at run time only from Python 3.11 on

Style = Literal["noto", "twemoji"]
IMAGE_SIZES: dict[Style, int] = {"noto": 64, "twemoji": 128}
"""Side of the stored images of each style in pixels."""

EmojiRecord = dict[str, Any]


@functools.lru_cache(maxsize=1)
def load_records() -> tuple[EmojiRecord, ...]:
    """Load one record per concept, in the order of the images.

    Keys: `key` (the characters), `code`, `name`, `group`, `subgroup`, `family` (code that near-equal concepts share),
    `twemoji` (whether that style draws it), `split` (train, validation or test).
    """
    text = gzip.decompress((_data_dir() / "records.jsonl.gz").read_bytes()).decode("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@functools.lru_cache(maxsize=2)
def load_images(style: Style) -> NDArray[np.uint8]:
    """Load all images of a style, (N, side, side, 4) uint8 RGBA, read-only; decoded once."""
    side = IMAGE_SIZES[style]
    names = sorted(path.name for path in _data_dir().iterdir() if path.name.startswith(f"{style}-"))
    cells = np.concatenate([_split_sheet((_data_dir() / name).read_bytes(), side) for name in names])
    cells = cells[: len(load_records())]
    cells.setflags(write=False)
    return cells


@functools.lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """Return the fine classes, `group/subgroup`, in the order of Unicode."""
    return tuple(dict.fromkeys(f"{record['group']}/{record['subgroup']}" for record in load_records()))


def _data_dir() -> Traversable:
    return files("lumina_recog") / "data" / "emoji"


def _split_sheet(sheet: bytes, side: int) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGBA"))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    cells = pixels.reshape(rows, side, columns, side, 4).swapaxes(1, 2)
    return np.ascontiguousarray(cells.reshape(rows * columns, side, side, 4))
