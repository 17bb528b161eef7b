"""Built-in data set: base emoji in two drawing styles, with their Unicode group and subgroup."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example
from lumina_core.types import Size
from lumina_recog.datasets import emoji_data
from lumina_recog.datasets.transforms import FLIP, ImageSize, fit_size
from lumina_recog.image_io import to_tensor

Rgb = tuple[int, int, int]


class EmojiDataset(Dataset):
    """Emoji on a background, labelled by subgroup or group.

    Splits are by concept (see data/emoji/card.md), styles are chosen freely: trained on Noto's `train` and evaluated on
    Twemoji's `train`, a model meets a new style; on Noto's `test` new concepts; on Twemoji's `test` both.
    """

    variable_size = True

    class Config(Settings):
        """Styles, split, size and augmentation."""

        styles: tuple[emoji_data.Style, ...] = Field(
            ("noto", "twemoji"), min_length=1, description="drawing styles: noto, twemoji"
        )
        split: Literal["train", "validation", "test", "all"] = Field("train", description="concepts")
        target: Literal["subgroup", "group"] = Field("subgroup", description="what is named: 98 subgroups or 9 groups")
        image_sizes: tuple[ImageSize, ...] = Field(
            ((64, 64),), min_length=1, description="[height, width] in pixels; each draw takes one of them"
        )
        fit: Literal["stretch", "pad"] = Field(
            "stretch",
            description="how an emoji fills an image that is not square: stretched, or undistorted in the middle",
        )
        augment: bool = Field(
            False, description="draw each emoji at a random place, scale and angle, with random colors and background"
        )
        augment_prob: float = Field(1.0, ge=0, le=1, description="share of draws that `augment` changes")
        balance: float = Field(
            0.0, ge=0, le=1, description="0: every emoji is equally frequent, 1: every group; between: in between"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        records = emoji_data.load_records()
        if len(set(config.styles)) < len(config.styles):
            raise ConfigError(f"recog.emoji styles: got {list(config.styles)}, expected different styles.")
        self._items = [
            (style, index)
            for style in config.styles
            for index, record in enumerate(records)
            if config.split in ("all", record["split"]) and (style != "twemoji" or record["twemoji"])
        ]
        names = emoji_data.class_names()
        self.classes: tuple[str, ...] = (
            names if config.target == "subgroup" else tuple(dict.fromkeys(name.partition("/")[0] for name in names))
        )
        label_of = {name: label for label, name in enumerate(self.classes)}
        keys = [r["group"] if config.target == "group" else f"{r['group']}/{r['subgroup']}" for r in records]
        self._labels = [label_of[keys[index]] for _, index in self._items]
        counts: dict[str, int] = {}
        for _, index in self._items:
            counts[records[index]["group"]] = counts.get(records[index]["group"], 0) + 1
        self._weights: list[float] = [
            float(counts[records[index]["group"]]) ** -config.balance for _, index in self._items
        ]

    def __len__(self) -> int:
        return len(self._items)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `image` (3, H, W) in [-1, 1], `label` (class index), `key` (the character) and `style`."""
        style, number = self._items[index]
        size = self.size(index, rng)
        emoji = Image.fromarray(emoji_data.load_images(style)[number], "RGBA")
        is_augmented = self.config.augment and rng.random() < self.config.augment_prob
        shape = (size[0], size[1])
        image = draw(emoji, shape, rng) if is_augmented else self._plain(emoji, shape)
        record = emoji_data.load_records()[number]
        return {"image": to_tensor(image), "label": self._labels[index], "key": record["key"], "style": style}

    def values(self, field: str) -> Sequence[Any]:
        """Return the labels.

        Raises:
            ConfigError: another field.
        """
        if field != "label":
            raise ConfigError(f"recog.emoji: field: got '{field}', expected 'label'.")
        return sorted(set(self._labels))

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of the classes for `label`."""
        return self.classes if field == "label" else ()

    def weight(self, index: int) -> float:
        """Return the sampling weight, by the emoji's group and `balance`."""
        return self._weights[index]

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (height, width) of the image of `get` with an equal generator."""
        return rng.choice(self.config.image_sizes)

    def sizes(self) -> Sequence[Size]:
        """Return (height, width) of every size."""
        return self.config.image_sizes

    def _plain(self, emoji: Image.Image, size: tuple[int, int]) -> Image.Image:
        white = Image.alpha_composite(Image.new("RGBA", emoji.size, "white"), emoji).convert("RGB")
        return fit_size(white, size, self.config.fit)


def draw(emoji: Image.Image, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw an emoji (RGBA) at a random place, scale, angle and color on a random background of (height, width)."""
    height, width = size
    side = min(height, width) * (rng.uniform(0.3, 0.5) if rng.random() < 0.2 else rng.uniform(0.6, 1.0))
    stretch = rng.uniform(0.8, 1.25) if rng.random() < 0.75 else width / height
    inner = (
        min(width, max(4, round(side * stretch**0.5))), min(height, max(4, round(side / stretch**0.5)))
    )  # fmt: skip
    if rng.random() < 0.5:
        emoji = emoji.transpose(FLIP)
    emoji = emoji.rotate(rng.gauss(0, 8), Image.Resampling.BICUBIC).resize(inner, Image.Resampling.LANCZOS)
    pixels = np.asarray(emoji, dtype=np.float32)
    colors, alpha = pixels[..., :3] / 255, pixels[..., 3:] / 255
    gray = colors.mean(axis=2, keepdims=True)
    colors = gray + (colors - gray) * rng.uniform(0.5, 1.6)
    mixing = np.eye(3) + np.array([[rng.gauss(0, 0.12) for _ in range(3)] for _ in range(3)])
    colors = np.clip(colors @ mixing.T * rng.uniform(0.75, 1.25) + rng.uniform(-0.15, 0.15), 0, 1)
    canvas = np.asarray(background(size, rng), dtype=np.float32) / 255
    left, top = rng.randint(0, width - inner[0]), rng.randint(0, height - inner[1])
    window = canvas[top : top + inner[1], left : left + inner[0]]
    window[:] = window * (1 - alpha) + colors * alpha
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))


def background(size: tuple[int, int], rng: random.Random, kind: str = "") -> Image.Image:
    """Return a background of (height, width): white, one color, a gradient, or clutter of blocks.

    Args:
        size: height and width.
        rng: random numbers.
        kind: `white`, `plain`, `gradient` or `clutter`; empty: one of them, white most often.
    """
    height, width = size
    kind = kind or rng.choices(("white", "plain", "gradient", "clutter"), (5, 2, 1, 2))[0]
    if kind == "white":
        return Image.new("RGB", (width, height), "white")
    if kind == "plain":
        return Image.new("RGB", (width, height), _color(rng))
    cells = 2 if kind == "gradient" else rng.randint(3, 8)
    small = Image.new("RGB", (cells, cells))
    for y in range(cells):
        for x in range(cells):
            small.putpixel((x, y), _color(rng))
    resample = Image.Resampling.NEAREST if kind == "clutter" else Image.Resampling.BILINEAR
    return small.resize((width, height), resample)


def _color(rng: random.Random) -> Rgb:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
