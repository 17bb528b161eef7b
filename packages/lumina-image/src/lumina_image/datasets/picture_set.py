"""What every data set of pictures does alike: skips what is damaged, cuts to a size, draws a caption."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.parts import Example
from lumina_core.sources.index import index_of
from lumina_core.sources.source import Held, Skipped, Source
from lumina_core.sources.source_set import SourceSet
from lumina_core.types import Extent
from lumina_image.datasets.buckets import Size, best_sizes, bucket_sizes, kept_share, patch_count
from lumina_image.pictures import check_header, covered, read_picture, to_tensor


class Buckets(Settings):
    """Several sizes instead of one: each picture is cut to one that fits its shape, so that little is cut away."""

    sizes: tuple[tuple[int, int], ...] = Field(
        (), description="[width, height] of each, in pixels; none named: the published list for `side`"
    )
    step: int = Field(
        16, ge=1, le=512, description="sides are multiples of it, in pixels: the autoencoder's stride times the patch"
    )
    max_ratio: float = Field(4.0, ge=1, le=100, description="longer side over shorter, of the published list")
    best: int = Field(4, ge=1, description="one of so many best-fitting sizes is drawn each time")
    least_kept: float = Field(
        0.5,
        ge=0,
        le=1,
        description="pictures of which every size would cut away more are left out; 0, as published: none",
    )
    most_enlarged: float | None = Field(
        None, gt=0, description="pictures that would have to be enlarged more are left out; none: however small"
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> Buckets:
        for size in self.sizes:
            if any(not 1 <= side <= 16384 or side % self.step for side in size):
                near = [max(round(side / self.step), 1) * self.step for side in size]
                raise ValueError(
                    f"the size {list(size)} is no multiple of step {self.step} from 1 to 16384; try {near}"
                )
        return self

    def listed(self, side: int) -> list[Size]:
        """The sizes, each once.

        Raises:
            ConfigError: there are none within these bounds.
        """
        patches = patch_count(side, self.step)
        found = list(dict.fromkeys(self.sizes)) or (bucket_sizes(patches, self.step, self.max_ratio) if patches else [])
        if not found:
            raise ConfigError(f"no bucket holds a square of side {side} with step {self.step}; take a smaller step")
        return found


class Cutting(Settings):
    """How pictures are cut and chosen, wherever they come from."""

    side: int = Field(
        64, ge=8, le=4096, description="side of the squares, in pixels; of buckets: of the square among them"
    )
    crop: Literal["random", "centre"] = Field("random", description="where a longer picture is cut")
    buckets: Buckets | None = Field(
        None, description="cut to one of several sizes instead of squares: `{}` for the published list; see `buckets`"
    )
    max_pixels: int = Field(64_000_000, ge=1, description="larger pictures are skipped, by their header")
    decode_first: int = Field(
        2000, ge=0, description="up to so many pictures are decoded once at the start; of more only the headers are"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="how often each source of captions is heard: {llava: 2, blip2: 1}; one not named: 1"
    )


class PictureSet(SourceSet):
    """Pictures of a source by index. The parts below build the source, and are this.

    Args:
        part: name of the part, for messages.
        kept_in: folder for the index of what was found; None: none is kept.
    """

    def __init__(self, part: str, cutting: Cutting, source: Source, kept_in: Path | None = None) -> None:
        self._cutting = cutting
        self.sizes: list[Size] = (
            [(cutting.side, cutting.side)] if cutting.buckets is None else cutting.buckets.listed(cutting.side)
        )
        # a method of the object would keep it in a cache of the class for ever
        self._fitting = lru_cache(maxsize=65536)(self._fits)
        bounds = {"max_pixels": cutting.max_pixels}
        super().__init__(
            part, "pictures", source, index_of(source, self._measured, bounds, cutting.decode_first, kept_in)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache, which cannot be sent to a worker process."""
        return {key: value for key, value in self.__dict__.items() if key != "_fitting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fitting = lru_cache(maxsize=65536)(self._fits)

    def example(self, index: int, draw: random.Random) -> Example:
        """`picture` (3, height, width) in [-1, 1], `caption`, `file` (its name there), and the source's own fields.

        A picture that turns out to be damaged is skipped for good: the next whole one stands in, cut to its size.

        Raises:
            ConfigError: no picture can be read any more.
        """
        size = self._drawn_size(index, draw)
        return self._example(index, "picture", draw, lambda held, _: self._made(held, size, draw))

    def extent(self, index: int, draw: random.Random) -> Extent:
        """(height, width) that the example's picture will have with the same draw; nothing is read."""
        width, height = self._drawn_size(index, draw)
        return height, width

    def extents(self) -> list[Extent]:
        """(height, width) of every size."""
        return [(height, width) for width, height in self.sizes]

    def shapes(self) -> Sequence[tuple[Size, Sequence[Size]]]:
        """For each example the (width, height) of its picture and the sizes that it may be cut to, each as likely."""
        found = [self._index.size(number) for number in self._numbers]
        return [(size, self._fitting(size)[0]) for size in found]

    def _measured(self, held: Held, thorough: bool) -> Size:
        most = self._cutting.max_pixels
        return read_picture(held, most).size if thorough else check_header(held, most)

    def _kept(self) -> np.ndarray:
        """The numbers of the pictures that a bucket fits; the others are skipped by name."""
        if self._cutting.buckets is None:
            return np.arange(len(self._index))
        # many pictures share few sizes
        sizes, which = np.unique(self._index.sizes, axis=0, return_inverse=True)
        reasons = [self._fitting((int(width), int(height)))[1] for width, height in sizes]
        left_out = np.array([bool(reason) for reason in reasons], dtype=bool)[which.reshape(-1)]
        for number in np.flatnonzero(left_out):
            self.skipped.append(Skipped(self._index.name(int(number)), reasons[int(which.reshape(-1)[number])]))
        return np.flatnonzero(~left_out)

    def _fits(self, picture: Size) -> tuple[tuple[Size, ...], str]:
        """The sizes that a picture may be cut to, and why there is none."""
        buckets = self._cutting.buckets
        if buckets is None:
            return tuple(self.sizes), ""
        best = best_sizes(picture, self.sizes, buckets.best)
        kept = [size for size in best if kept_share(picture, size) >= buckets.least_kept]
        if not kept:
            share = kept_share(picture, best[0])
            return (), f"{picture[0]}x{picture[1]}: the best bucket keeps {share:.0%} of it, under least_kept"
        most = buckets.most_enlarged
        small = [size for size in kept if most is None or max(size[0] / picture[0], size[1] / picture[1]) <= most]
        if not small:
            return (), f"{picture[0]}x{picture[1]}: smaller than its buckets, over most_enlarged"
        return tuple(small), ""

    def _drawn_size(self, index: int, draw: random.Random) -> Size:
        if self._cutting.buckets is None:
            return self.sizes[0]
        return draw.choice(self._fitting(self._index.size(int(self._numbers[index])))[0])

    def _made(self, held: Held, size: Size, draw: random.Random) -> Tensor:
        image = read_picture(held, self._cutting.max_pixels)
        return to_tensor(np.asarray(self._cut(image, size, draw)))

    def _cut(self, image: Image.Image, size: Size, draw: random.Random) -> Image.Image:
        if self._cutting.crop == "centre":
            return covered(image, size)
        return covered(image, size, across=draw.random(), down=draw.random())
