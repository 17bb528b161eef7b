"""Packaged emoji images and captions; data/emoji/card.md and data/fluent/card.md describe them."""

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

IMAGE_SIZE = 64

EmojiRecord = dict[str, Any]


@functools.lru_cache(maxsize=1)
def load_records() -> tuple[EmojiRecord, ...]:
    """Load one record per image, in the order of the images.

    Keys: `key` (the characters, without U+FE0F), `code`, `base` (code of its base emoji), `group`, `subgroup`, `skin`
    (tones, or None for a base), `hair`, `left_out` (held out of training), and
    `captions` (language -> {"name", "keywords"}).
    """
    text = gzip.decompress((_data_dir() / "captions.jsonl.gz").read_bytes()).decode("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@functools.lru_cache(maxsize=1)
def load_images() -> NDArray[np.uint8]:
    """Load all images, (N, 64, 64, 3) uint8 on white, read-only; decoded once."""
    cells = _load_sheets(_data_dir())[: len(load_records())]
    cells.setflags(write=False)
    return cells


@functools.lru_cache(maxsize=1)
def load_fluent_images() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Load the drawings of the style Fluent in the order of the records, and which records have one.

    Returns:
        (N, 64, 64, 3) uint8 on white, blank where there is no drawing, and (N,) bool; both read-only.
    """
    folder = files("lumina_image") / "data" / "fluent"
    rows = {record["code"]: row for row, record in enumerate(load_records())}
    indices = [rows[code] for code in json.loads((folder / "codes.json").read_text(encoding="utf-8"))]
    images = np.full((len(rows), IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8)
    images[indices] = _load_sheets(folder)[: len(indices)]
    available = np.zeros(len(rows), np.bool_)
    available[indices] = True
    images.setflags(write=False)
    available.setflags(write=False)
    return images, available


@functools.lru_cache(maxsize=2)
def load_resized_images(image_size: int) -> NDArray[np.uint8]:
    """Load all images, resized to (N, image_size, image_size, 3) uint8."""
    return resize(load_images(), image_size)


def resize(images: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """Resize images (N, H, W, 3) to (N, image_size, image_size, 3); images of that size are returned as they are."""
    if images.shape[1:3] == (image_size, image_size):
        return images
    size = (image_size, image_size)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in images])


def languages() -> tuple[str, ...]:
    """Return the languages of the captions, English first."""
    return tuple(load_records()[0]["captions"])


def _data_dir() -> Traversable:
    return files("lumina_image") / "data" / "emoji"


def _load_sheets(folder: Traversable) -> NDArray[np.uint8]:
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith("pictures-"))
    return np.concatenate([_split_sheet((folder / name).read_bytes()) for name in names])


def _split_sheet(sheet: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    rows, columns = pixels.shape[0] // IMAGE_SIZE, pixels.shape[1] // IMAGE_SIZE
    cells = pixels.reshape(rows, IMAGE_SIZE, columns, IMAGE_SIZE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cells.reshape(rows * columns, IMAGE_SIZE, IMAGE_SIZE, 3))
