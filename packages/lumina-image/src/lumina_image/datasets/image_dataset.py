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
from lumina_core.data.dataset import IndexedDataset
from lumina_core.data.index import load_or_build_index
from lumina_core.data.source import FileOrBytes, SkippedItem, Source
from lumina_core.errors import ConfigError
from lumina_core.protocols import Example
from lumina_core.types import Size
from lumina_image.datasets.buckets import ImageSize, best_sizes, bucket_sizes, kept_fraction, num_patches
from lumina_image.image_io import crop_resize, read_image, read_image_size, to_tensor


class BucketConfig(Settings):
    """Several sizes instead of one: each picture is cut to one that fits its shape, so that little is cut away."""

    sizes: tuple[tuple[int, int], ...] = Field(
        (), description="[width, height] of each, in pixels; none named: the published list for `image_size`"
    )
    step: int = Field(
        16, ge=1, le=512, description="sides are multiples of it, in pixels: the autoencoder's stride times the patch"
    )
    max_aspect_ratio: float = Field(4.0, ge=1, le=100, description="longer side over shorter, of the published list")
    top_k: int = Field(4, ge=1, description="one of so many best-fitting sizes is drawn each time")
    min_kept_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="pictures of which every size would cut away more are left out; 0, as published: none",
    )
    max_upscale: float | None = Field(
        None, gt=0, description="pictures that would have to be enlarged more are left out; none: however small"
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> BucketConfig:
        for size in self.sizes:
            if any(not 1 <= side <= 16384 or side % self.step for side in size):
                nearest = [max(round(side / self.step), 1) * self.step for side in size]
                raise ValueError(
                    f"the size {list(size)} is no multiple of step {self.step} from 1 to 16384; try {nearest}"
                )
        return self

    def resolve_sizes(self, image_size: int) -> list[ImageSize]:
        """The sizes, each once.

        Raises:
            ConfigError: there are none within these bounds.
        """
        max_patches = num_patches(image_size, self.step)
        sizes = list(dict.fromkeys(self.sizes)) or (
            bucket_sizes(max_patches, self.step, self.max_aspect_ratio) if max_patches else []
        )
        if not sizes:
            raise ConfigError(
                f"no bucket holds a square of side {image_size} with step {self.step}; take a smaller step"
            )
        return sizes


class CropConfig(Settings):
    """How pictures are cut and chosen, wherever they come from."""

    image_size: int = Field(
        64, ge=8, le=4096, description="side of the squares, in pixels; of buckets: of the square among them"
    )
    crop: Literal["random", "center"] = Field("random", description="where a longer picture is cut")
    buckets: BucketConfig | None = Field(
        None, description="cut to one of several sizes instead of squares: `{}` for the published list; see `buckets`"
    )
    max_pixels: int = Field(64_000_000, ge=1, description="larger pictures are skipped, by their header")
    validate_first: int = Field(
        2000, ge=0, description="up to so many pictures are decoded once at the start; of more only the headers are"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="how often each source of captions is heard: {llava: 2, blip2: 1}; one not named: 1"
    )


class ImageDataset(IndexedDataset):
    """Pictures of a source by index. The parts below build the source, and are this.

    Args:
        part: name of the part, for messages.
        kept_in: folder for the index of what was found; None: none is kept.
    """

    variable_size = True

    def __init__(self, component: str, crop_config: CropConfig, source: Source, index_dir: Path | None = None) -> None:
        self._crop_config = crop_config
        self.image_sizes: list[ImageSize] = (
            [(crop_config.image_size, crop_config.image_size)]
            if crop_config.buckets is None
            else crop_config.buckets.resolve_sizes(crop_config.image_size)
        )
        # a method of the object would keep it in a cache of the class for ever
        self._cached_fit_buckets = lru_cache(maxsize=65536)(self._fit_buckets)
        bounds = {"max_pixels": crop_config.max_pixels}
        super().__init__(
            component,
            "images",
            source,
            load_or_build_index(source, self._read_size, bounds, crop_config.validate_first, index_dir),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache, which cannot be sent to a worker process."""
        return {key: value for key, value in self.__dict__.items() if key != "_cached_fit_buckets"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached_fit_buckets = lru_cache(maxsize=65536)(self._fit_buckets)

    def get(self, index: int, rng: random.Random) -> Example:
        """`image` (3, height, width) in [-1, 1], `caption`, `file` (its name there), and the source's own fields.

        A picture that turns out to be damaged is skipped for good: the next whole one stands in, cut to its size.

        Raises:
            ConfigError: no picture can be read any more.
        """
        size = self._sample_size(index, rng)
        return self._get_item(index, "image", rng, lambda source, _: self._load_image(source, size, rng))

    def size(self, index: int, rng: random.Random) -> Size:
        """(height, width) that the example's picture will have with the same draw; nothing is read."""
        width, height = self._sample_size(index, rng)
        return height, width

    def sizes(self) -> list[Size]:
        """(height, width) of every size."""
        return [(height, width) for width, height in self.image_sizes]

    def size_choices(self) -> Sequence[tuple[ImageSize, Sequence[ImageSize]]]:
        """For each example the (width, height) of its picture and the sizes that it may be cut to, each as likely."""
        image_sizes = [self._index.size(item_number) for item_number in self._item_numbers]
        return [(size, self._cached_fit_buckets(size)[0]) for size in image_sizes]

    def _read_size(self, source: FileOrBytes, decode: bool) -> ImageSize:
        max_pixels = self._crop_config.max_pixels
        return read_image(source, max_pixels).size if decode else read_image_size(source, max_pixels)

    def _select_items(self) -> np.ndarray:
        """The numbers of the pictures that a bucket fits; the others are skipped by name."""
        if self._crop_config.buckets is None:
            return np.arange(len(self._index))
        # many pictures share few sizes
        sizes, inverse = np.unique(self._index.sizes, axis=0, return_inverse=True)
        reasons = [self._cached_fit_buckets((int(width), int(height)))[1] for width, height in sizes]
        excluded = np.array([bool(reason) for reason in reasons], dtype=bool)[inverse.reshape(-1)]
        for item_number in np.flatnonzero(excluded):
            self.skipped.append(
                SkippedItem(self._index.name(int(item_number)), reasons[int(inverse.reshape(-1)[item_number])])
            )
        return np.flatnonzero(~excluded)

    def _fit_buckets(self, image_size: ImageSize) -> tuple[tuple[ImageSize, ...], str]:
        """The sizes that a picture may be cut to, and why there is none."""
        buckets = self._crop_config.buckets
        if buckets is None:
            return tuple(self.image_sizes), ""
        best = best_sizes(image_size, self.image_sizes, buckets.top_k)
        candidates = [size for size in best if kept_fraction(image_size, size) >= buckets.min_kept_fraction]
        if not candidates:
            fraction = kept_fraction(image_size, best[0])
            return (
                (),
                f"{image_size[0]}x{image_size[1]}: the best bucket keeps {fraction:.0%} of it, under min_kept_fraction",
            )
        max_upscale = buckets.max_upscale
        allowed = [
            size
            for size in candidates
            if max_upscale is None or max(size[0] / image_size[0], size[1] / image_size[1]) <= max_upscale
        ]
        if not allowed:
            return (), f"{image_size[0]}x{image_size[1]}: smaller than its buckets, over max_upscale"
        return tuple(allowed), ""

    def _sample_size(self, index: int, rng: random.Random) -> ImageSize:
        if self._crop_config.buckets is None:
            return self.image_sizes[0]
        return rng.choice(self._cached_fit_buckets(self._index.size(int(self._item_numbers[index])))[0])

    def _load_image(self, source: FileOrBytes, size: ImageSize, rng: random.Random) -> Tensor:
        image = read_image(source, self._crop_config.max_pixels)
        return to_tensor(np.asarray(self._crop(image, size, rng)))

    def _crop(self, image: Image.Image, size: ImageSize, rng: random.Random) -> Image.Image:
        if self._crop_config.crop == "center":
            return crop_resize(image, size)
        return crop_resize(image, size, x_fraction=rng.random(), y_fraction=rng.random())


class ShardConfig(CropConfig):
    """Where the shards are, and how their pictures are cut."""

    folder: str = Field(min_length=1, description="the folder that holds the shards")
    index_dir: str | None = Field(
        None, description="folder for the index of what the shards hold; none: `.lumina-index` beside them"
    )
