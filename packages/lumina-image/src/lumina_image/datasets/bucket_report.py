"""What a data set's pictures are cut to: for each size how many, how often, and what is cut away."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.files import whole_file
from lumina_core.parts import Dataset
from lumina_core.sources.source import Skipped
from lumina_image.datasets.buckets import Size, kept_share
from lumina_image.datasets.picture_set import PictureSet

WIDTH, LINE, BAR = 900, 28, 200
"""Of the drawing, in pixels: all of it, one line of it, where the bars begin."""


@dataclass
class Row:
    """One size.

    Attributes:
        best_for: pictures of which no other size keeps more.
        drawn: how often it is drawn in an epoch, as expected.
        cut: share of those pictures that is cut away, the mean over the draws.
        enlarged: share of the draws in which a picture is enlarged.
    """

    size: Size
    best_for: int = 0
    drawn: float = 0.0
    cut: float = 0.0
    enlarged: float = 0.0

    def add(self, picture: Size, draws: float) -> None:
        """So many draws more, of a picture of this size; the shares are kept as means."""
        self.drawn += draws
        self.cut += (1 - kept_share(picture, self.size) - self.cut) * draws / self.drawn
        larger = any(side > own for side, own in zip(self.size, picture, strict=True))
        self.enlarged += (larger - self.enlarged) * draws / self.drawn

    def record(self, batch: int, total: float) -> dict[str, Any]:
        """The row as plain data; `total` draws an epoch."""
        width, height = self.size
        return {
            "width": width,
            "height": height,
            "ratio": round(width / height, 3),
            "pictures": self.best_for,
            "draws": round(self.drawn, 1),
            "share": round(self.drawn / total, 4),
            "batches": int(self.drawn / batch),
            "cut_away": round(self.cut, 4),
            "enlarged": round(self.enlarged, 4),
        }


@dataclass
class Report:
    """All sizes, the widest first, and what is left out; `pictures` are used, `draws` of them make an epoch."""

    batch: int
    rows: list[Row]
    pictures: int
    draws: float
    left_out: list[Skipped]

    @property
    def mixed(self) -> int:
        """Batches an epoch that are filled with leftovers of several sizes, as expected."""
        whole = [int(row.drawn / self.batch) for row in self.rows if row.drawn]
        return max(math.ceil(self.draws / self.batch) - sum(whole), 0) if len(whole) > 1 else 0

    @property
    def cut(self) -> float:
        """Share of the pictures that is cut away, the mean over all draws."""
        return sum(row.cut * row.drawn for row in self.rows) / self.draws

    def record(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "pictures": self.pictures,
            "batch": self.batch,
            "mixed_batches": self.mixed,
            "cut_away": round(self.cut, 4),
            "buckets": [row.record(self.batch, self.draws) for row in self.rows],
            "left_out": [{"name": one.name, "reason": one.reason} for one in self.left_out],
        }


def report(dataset: Dataset, batch: int) -> Report:
    """What an epoch of a data set of pictures, or of a mixture of some, is cut to.

    Raises:
        ConfigError: its examples have no pictures.
    """
    members = list(_members(dataset))
    rows: dict[Size, Row] = {size: Row(size) for member, _ in members for size in getattr(member, "sizes", ())}
    for member, often in members:
        # many pictures share few sizes
        shapes = member.shapes() if isinstance(member, PictureSet) else _alike(member)
        for (picture, sizes), count in Counter((size, tuple(fitting)) for size, fitting in shapes).items():
            rows.setdefault(sizes[0], Row(sizes[0])).best_for += count
            for size in sizes:
                rows[size].add(picture, count * often / len(sizes))
    listed = sorted(rows.values(), key=lambda row: (row.size[0] / row.size[1], row.size), reverse=True)
    left_out = [skipped for member, _ in members if isinstance(member, PictureSet) for skipped in member.skipped]
    pictures = sum(len(member) for member, _ in members)
    return Report(batch, listed, pictures, sum(row.drawn for row in listed), left_out)


def _members(dataset: Dataset) -> Iterator[tuple[Dataset, float]]:
    """The data sets in a data set, and how often an epoch draws an example of each, the mean over its examples."""
    everyone = sum(dataset.weight(index) for index in range(len(dataset)))
    first = 0
    for member in getattr(dataset, "datasets", (dataset,)):
        own = sum(dataset.weight(first + index) for index in range(len(member)))
        yield member, own / len(member) * len(dataset) / everyone
        first += len(member)


def _alike(dataset: Dataset) -> list[tuple[Size, tuple[Size, ...]]]:
    """The shapes of a data set whose pictures all come in one size, uncut."""
    picture = dataset.example(0, random.Random(0)).get("picture")
    if not isinstance(picture, Tensor):
        raise ConfigError("the examples of this recipe's data set have no pictures")
    size = (picture.shape[-1], picture.shape[-2])
    return [(size, (size,))] * len(dataset)


def draw_report(found: Report, path: Path) -> None:
    """The sizes as a PNG: each by its shape, a bar for how often it is drawn, and the part that is cut away in red."""
    rows = [row for row in found.rows if row.drawn]
    most, font = max(row.drawn for row in rows), ImageFont.load_default(LINE // 2)
    largest = max(max(row.size) for row in rows)
    sheet = Image.new("RGB", (WIDTH, LINE * (len(rows) + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    said = f"{found.pictures} pictures, {len(found.left_out)} left out, {found.cut:.1%} cut away (red)"
    pen.text((LINE // 2, LINE // 2), said, "black", font)
    for number, row in enumerate(rows):
        top = LINE * (number + 1) + LINE // 2
        width, height = (max(side * (LINE - 6) / largest, 2) for side in row.size)
        middle = top + LINE / 2
        pen.rectangle((LINE / 2, middle - height / 2, LINE / 2 + width, middle + height / 2), outline="black")
        pen.text((LINE * 2, top + LINE // 4), f"{row.size[0]} x {row.size[1]}", "black", font)
        end = BAR + (WIDTH - BAR - LINE * 4) * row.drawn / most
        kept = BAR + (end - BAR) * (1 - row.cut)
        pen.rectangle((BAR, top + 4, kept, top + LINE - 4), fill="steelblue")
        pen.rectangle((kept, top + 4, end, top + LINE - 4), fill="firebrick")
        pen.text((end + LINE // 4, top + LINE // 4), f"{row.drawn / found.draws:.1%}", "black", font)
    with whole_file(path) as partial:
        sheet.save(partial, format="PNG")
