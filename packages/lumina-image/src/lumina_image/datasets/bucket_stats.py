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

from lumina_core.data.source import SkippedItem
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file
from lumina_core.protocols import Dataset
from lumina_image.datasets.buckets import ImageSize, kept_fraction
from lumina_image.datasets.image_dataset import ImageDataset

PLOT_WIDTH, LINE_HEIGHT, BAR_START = 900, 28, 200
"""Of the drawing, in pixels: all of it, one line of it, where the bars begin."""


@dataclass
class SizeStats:
    """One size.

    Attributes:
        best_for: pictures of which no other size keeps more.
        drawn: how often it is drawn in an epoch, as expected.
        cut: share of those pictures that is cut away, the mean over the draws.
        enlarged: share of the draws in which a picture is enlarged.
    """

    size: ImageSize
    num_best: int = 0
    expected_draws: float = 0.0
    cropped_fraction: float = 0.0
    upscaled_fraction: float = 0.0

    def add(self, image_size: ImageSize, draws: float) -> None:
        """So many draws more, of a picture of this size; the shares are kept as means."""
        self.expected_draws += draws
        self.cropped_fraction += (
            (1 - kept_fraction(image_size, self.size) - self.cropped_fraction) * draws / self.expected_draws
        )
        is_upscaled = any(side > original_side for side, original_side in zip(self.size, image_size, strict=True))
        self.upscaled_fraction += (is_upscaled - self.upscaled_fraction) * draws / self.expected_draws

    def to_dict(self, batch_size: int, total_draws: float) -> dict[str, Any]:
        """The row as plain data; `total` draws an epoch."""
        width, height = self.size
        return {
            "width": width,
            "height": height,
            "aspect_ratio": round(width / height, 3),
            "num_best": self.num_best,
            "expected_draws": round(self.expected_draws, 1),
            "fraction": round(self.expected_draws / total_draws, 4),
            "num_batches": int(self.expected_draws / batch_size),
            "cropped_fraction": round(self.cropped_fraction, 4),
            "upscaled_fraction": round(self.upscaled_fraction, 4),
        }


@dataclass
class BucketStats:
    """All sizes, the widest first, and what is left out; `pictures` are used, `draws` of them make an epoch."""

    batch_size: int
    rows: list[SizeStats]
    num_images: int
    total_draws: float
    skipped: list[SkippedItem]

    @property
    def num_mixed_batches(self) -> int:
        """Batches an epoch that are filled with leftovers of several sizes, as expected."""
        full_batches = [int(row.expected_draws / self.batch_size) for row in self.rows if row.expected_draws]
        return max(math.ceil(self.total_draws / self.batch_size) - sum(full_batches), 0) if len(full_batches) > 1 else 0

    @property
    def cropped_fraction(self) -> float:
        """Share of the pictures that is cut away, the mean over all draws."""
        return sum(row.cropped_fraction * row.expected_draws for row in self.rows) / self.total_draws

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "num_images": self.num_images,
            "batch_size": self.batch_size,
            "num_mixed_batches": self.num_mixed_batches,
            "cropped_fraction": round(self.cropped_fraction, 4),
            "buckets": [row.to_dict(self.batch_size, self.total_draws) for row in self.rows],
            "skipped": [{"name": item.name, "reason": item.reason} for item in self.skipped],
        }


def compute_bucket_stats(dataset: Dataset, batch_size: int) -> BucketStats:
    """What an epoch of a data set of pictures, or of a mixture of some, is cut to.

    Raises:
        ConfigError: its examples have no pictures.
    """
    members = list(_members_with_draws(dataset))
    rows: dict[ImageSize, SizeStats] = {
        size: SizeStats(size)
        for member, _ in members
        for size in (member.image_sizes if isinstance(member, ImageDataset) else ())
    }
    for member, draws_per_example in members:
        # many pictures share few sizes
        choices = member.size_choices() if isinstance(member, ImageDataset) else _single_size(member)
        for (image_size, sizes), count in Counter((size, tuple(fitting)) for size, fitting in choices).items():
            rows.setdefault(sizes[0], SizeStats(sizes[0])).num_best += count
            for size in sizes:
                rows[size].add(image_size, count * draws_per_example / len(sizes))
    ordered = sorted(rows.values(), key=lambda row: (row.size[0] / row.size[1], row.size), reverse=True)
    excluded = [skipped for member, _ in members if isinstance(member, ImageDataset) for skipped in member.skipped]
    num_images = sum(len(member) for member, _ in members)
    return BucketStats(batch_size, ordered, num_images, sum(row.expected_draws for row in ordered), excluded)


def _members_with_draws(dataset: Dataset) -> Iterator[tuple[Dataset, float]]:
    """The data sets in a data set, and how often an epoch draws an example of each, the mean over its examples."""
    total_weight = sum(dataset.weight(index) for index in range(len(dataset)))
    offset = 0
    for member in getattr(dataset, "datasets", (dataset,)):
        member_weight = sum(dataset.weight(offset + index) for index in range(len(member)))
        yield member, member_weight / len(member) * len(dataset) / total_weight
        offset += len(member)


def _single_size(dataset: Dataset) -> list[tuple[ImageSize, tuple[ImageSize, ...]]]:
    """The shapes of a data set whose pictures all come in one size, uncut."""
    image = dataset.get(0, random.Random(0)).get("image")
    if not isinstance(image, Tensor):
        raise ConfigError("the examples of this recipe's data set have no pictures")
    size = (image.shape[-1], image.shape[-2])
    return [(size, (size,))] * len(dataset)


def plot_bucket_stats(stats: BucketStats, path: Path) -> None:
    """The sizes as a PNG: each by its shape, a bar for how often it is drawn, and the part that is cut away in red."""
    rows = [row for row in stats.rows if row.expected_draws]
    max_draws, font = max(row.expected_draws for row in rows), ImageFont.load_default(LINE_HEIGHT // 2)
    largest = max(max(row.size) for row in rows)
    plot = Image.new("RGB", (PLOT_WIDTH, LINE_HEIGHT * (len(rows) + 2)), "white")
    draw = ImageDraw.Draw(plot)
    title = f"{stats.num_images} pictures, {len(stats.skipped)} left out, {stats.cropped_fraction:.1%} cut away (red)"
    draw.text((LINE_HEIGHT // 2, LINE_HEIGHT // 2), title, "black", font)
    for index, row in enumerate(rows):
        top = LINE_HEIGHT * (index + 1) + LINE_HEIGHT // 2
        width, height = (max(side * (LINE_HEIGHT - 6) / largest, 2) for side in row.size)
        center = top + LINE_HEIGHT / 2
        draw.rectangle(
            (LINE_HEIGHT / 2, center - height / 2, LINE_HEIGHT / 2 + width, center + height / 2), outline="black"
        )
        draw.text((LINE_HEIGHT * 2, top + LINE_HEIGHT // 4), f"{row.size[0]} x {row.size[1]}", "black", font)
        bar_end = BAR_START + (PLOT_WIDTH - BAR_START - LINE_HEIGHT * 4) * row.expected_draws / max_draws
        kept_end = BAR_START + (bar_end - BAR_START) * (1 - row.cropped_fraction)
        draw.rectangle((BAR_START, top + 4, kept_end, top + LINE_HEIGHT - 4), fill="steelblue")
        draw.rectangle((kept_end, top + 4, bar_end, top + LINE_HEIGHT - 4), fill="firebrick")
        draw.text(
            (bar_end + LINE_HEIGHT // 4, top + LINE_HEIGHT // 4),
            f"{row.expected_draws / stats.total_draws:.1%}",
            "black",
            font,
        )
    with atomic_file(path) as partial:
        plot.save(partial, format="PNG")
