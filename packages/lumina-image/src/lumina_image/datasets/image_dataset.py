"""Image data sets: cropping to one size or to buckets, and images in folders or tar files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.data.captions import Captions, CaptionSource
from lumina_core.data.image_formats import SUFFIXES, UNREAD_SUFFIXES
from lumina_core.data.index import IndexedDataset, load_or_build_index
from lumina_core.data.source import (
    FileOrBytes,
    FolderSource,
    Shards,
    SkippedItem,
    Source,
    list_class_names,
    list_classes,
    list_folder,
    require_dir,
)
from lumina_core.data.tar import TarSource
from lumina_core.errors import ConfigError
from lumina_core.protocols import Example
from lumina_core.types import Size
from lumina_image.datasets.buckets import ImageSize, best_sizes, bucket_sizes, kept_fraction, num_patches
from lumina_image.image_io import crop_resize, read_image, read_image_size, to_tensor

FOLDER_ADVICE = (
    "Put images there (png, jpg, webp ...), each with a .txt of the same name, or a captions.jsonl with lines like "
    '{"file": "a.png", "caption": "a red fox"}'
)
CLASS_FOLDER_ADVICE = "Put a folder with images (png, jpg, webp ...) there for each class, named like the class"


class BucketConfig(Settings):
    """Bucket sizes: each image is cropped to a size of a similar aspect ratio."""

    sizes: tuple[tuple[int, int], ...] = Field(
        (), description="[width, height] of each size in pixels; empty: the published list for `image_size`"
    )
    step: int = Field(16, ge=1, le=512, description="step of the sides in pixels: downsampling factor times patch size")
    max_aspect_ratio: float = Field(
        4.0, ge=1, le=100, description="largest ratio of longer to shorter side in the published list"
    )
    top_k: int = Field(4, ge=1, description="number of best sizes from which each draw chooses one")
    min_kept_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="smallest share of an image that a size must keep, else the image is skipped; published: 0",
    )
    max_upscale: float | None = Field(
        None, gt=0, description="largest enlargement of an image, else it is skipped; null: no limit"
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> BucketConfig:
        for size in self.sizes:
            if any(not 1 <= side <= 16384 or side % self.step for side in size):
                nearest = [max(round(side / self.step), 1) * self.step for side in size]
                raise ValueError(
                    f"expected multiples of step {self.step} up to 16384, not {list(size)}; nearest: {nearest}"
                )
        return self

    def resolve_sizes(self, image_size: int) -> list[ImageSize]:
        """Return the sizes (width, height) without duplicates.

        Raises:
            ConfigError: no size has `image_size` ** 2 pixels with this step.
        """
        if self.sizes:
            return list(dict.fromkeys(self.sizes))
        max_patches = num_patches(image_size, self.step)
        if not max_patches:
            raise ConfigError(f"buckets.step: got {self.step}, expected at most the image_size {image_size}.")
        return bucket_sizes(max_patches, self.step, self.max_aspect_ratio)


class CropConfig(Settings):
    """Cropping and selection of images."""

    image_size: int = Field(
        64, ge=8, le=4096, description="side of the square images in pixels; of the square bucket, with buckets"
    )
    crop: Literal["random", "center"] = Field("random", description="position of crops")
    buckets: BucketConfig | None = Field(
        None, description="crop to several sizes instead of squares; `{}`: the published list"
    )
    max_pixels: int = Field(
        64_000_000, ge=1, description="largest image in pixels; larger ones are skipped by their header"
    )
    validate_first: int = Field(
        2000, ge=0, description="largest number of images that are all decoded once at the start; else headers only"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="sampling weight of each caption source: {llava: 2, blip2: 1}; default: 1"
    )


class ImageDataset(IndexedDataset):
    """Data set of the images of a source: base class of image data sets.

    Args:
        component: name of the component, for messages.
        crop_config: cropping and selection.
        source: the images and captions.
        index_dir: folder of the stored index; None: the index is not stored.
    """

    variable_size = True

    def __init__(self, component: str, crop_config: CropConfig, source: Source, index_dir: Path | None = None) -> None:
        self._crop_config = crop_config
        self.image_sizes: list[ImageSize] = (
            [(crop_config.image_size, crop_config.image_size)]
            if crop_config.buckets is None
            else crop_config.buckets.resolve_sizes(crop_config.image_size)
        )
        # a cache on the method would hold a reference to this object forever
        self._cached_fit_buckets = lru_cache(maxsize=65536)(self._fit_buckets)
        bounds = {"max_pixels": crop_config.max_pixels}
        index = load_or_build_index(source, self._read_size, bounds, crop_config.validate_first, index_dir)
        super().__init__(component, "images", source, index)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the cache, which cannot be pickled for a worker process."""
        return {key: value for key, value in self.__dict__.items() if key != "_cached_fit_buckets"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached_fit_buckets = lru_cache(maxsize=65536)(self._fit_buckets)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `image` (3, height, width) in [-1, 1], `caption`, `file` (its name) and further fields of the source.

        If the image is damaged, it is skipped from then on, and the next readable image is cropped to its size.

        Raises:
            ConfigError: no image is readable.
        """
        size = self._sample_size(index, rng)
        return self._get_item(index, "image", rng, lambda source, _: self._load_image(source, size, rng))

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (height, width) of the image of `get` with an equal generator, without reading it."""
        width, height = self._sample_size(index, rng)
        return height, width

    def sizes(self) -> list[Size]:
        """Return (height, width) of every size."""
        return [(height, width) for width, height in self.image_sizes]

    def size_choices(self) -> Sequence[tuple[ImageSize, Sequence[ImageSize]]]:
        """Return (width, height) of each image, and the equally likely sizes to which it is cropped."""
        image_sizes = [self._index.size(item_number) for item_number in self._item_numbers]
        return [(size, self._cached_fit_buckets(size)[0]) for size in image_sizes]

    def _read_size(self, source: FileOrBytes, decode: bool) -> ImageSize:
        max_pixels = self._crop_config.max_pixels
        return read_image(source, max_pixels).size if decode else read_image_size(source, max_pixels)

    def _select_items(self) -> np.ndarray:
        """Return the indices of the images that have a bucket; the others are skipped."""
        if self._crop_config.buckets is None:
            return np.arange(len(self._index))
        # many images have few different sizes
        sizes, inverse = np.unique(self._index.sizes, axis=0, return_inverse=True)
        reasons = [self._cached_fit_buckets((int(width), int(height)))[1] for width, height in sizes]
        excluded = np.array([bool(reason) for reason in reasons], dtype=bool)[inverse.reshape(-1)]
        for item_number in np.flatnonzero(excluded):
            reason = reasons[int(inverse.reshape(-1)[item_number])]
            self.skipped.append(SkippedItem(self._index.name(int(item_number)), reason))
        return np.flatnonzero(~excluded)

    def _fit_buckets(self, image_size: ImageSize) -> tuple[tuple[ImageSize, ...], str]:
        """Return the sizes to which an image can be cropped, or the reason why there is none."""
        buckets = self._crop_config.buckets
        if buckets is None:
            return tuple(self.image_sizes), ""
        best = best_sizes(image_size, self.image_sizes, buckets.top_k)
        candidates = [size for size in best if kept_fraction(image_size, size) >= buckets.min_kept_fraction]
        if not candidates:
            fraction = kept_fraction(image_size, best[0])
            return (), f"{image_size[0]}x{image_size[1]}: the best bucket keeps {fraction:.0%}, below min_kept_fraction"
        if buckets.max_upscale is not None:
            width, height = image_size
            candidates = [size for size in candidates if max(size[0] / width, size[1] / height) <= buckets.max_upscale]
            if not candidates:
                return (), f"{width}x{height}: smaller than its buckets, above max_upscale"
        return tuple(candidates), ""

    def _sample_size(self, index: int, rng: random.Random) -> ImageSize:
        if self._crop_config.buckets is None:
            return self.image_sizes[0]
        return rng.choice(self._cached_fit_buckets(self._index.size(int(self._item_numbers[index])))[0])

    def _load_image(self, source: FileOrBytes, size: ImageSize, rng: random.Random) -> Tensor:
        image = read_image(source, self._crop_config.max_pixels)
        center = self._crop_config.crop == "center"
        x_fraction, y_fraction = (0.5, 0.5) if center else (rng.random(), rng.random())
        return to_tensor(np.asarray(crop_resize(image, size, x_fraction, y_fraction)))


class ShardConfig(CropConfig):
    """Folder of shards, and cropping."""

    folder: str = Field(min_length=1, description="folder of the shards")
    index_dir: str | None = Field(
        None, description="folder of the index of the shards; null: `.lumina-index` in their folder"
    )


class FolderDataset(ImageDataset):
    """Images of a folder and its subfolders.

    Captions come from `captions.jsonl` ({"file": ..., "caption": a text, a list, or texts by source}) if it exists,
    else from a `.txt` or `.caption` with the name of each image (a caption per line), or a `.json` ({"caption": ...}).
    Names with a first dot are no data; links to folders are not followed.
    """

    class Config(CropConfig):
        """Folder and cropping."""

        folder: str = Field(
            min_length=1, description="folder of the images, absolute or relative to the working directory"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        root = require_dir(config.folder, "image.folder")
        entries = list(list_folder(root, SUFFIXES, config.caption_weights, UNREAD_SUFFIXES))
        super().__init__("image.folder", config, FolderSource(root, entries, FOLDER_ADVICE))


class ClassFolderDataset(ImageDataset):
    """Images in one folder per class, as in torchvision's ImageFolder: its index is the label, its name a caption."""

    class Config(CropConfig):
        """Folder, captions and cropping."""

        folder: str = Field(min_length=1, description="folder with a subfolder per class")
        class_captions: dict[str, str | tuple[str, ...]] = Field(
            {}, description="captions of a class by its subfolder: {n01440764: [tench, a fish]}; default: its name"
        )
        template: str = Field("{}", description="caption of a class, {} for its name: `a photo of a {}`")

    def __init__(self, config: Config) -> None:
        self.config = config
        if "{}" not in config.template:
            raise ConfigError(
                f"image.class_folder: template: got '{config.template}', expected {{}} for the class name."
            )
        root = require_dir(config.folder, "image.class_folder")
        self.classes, skipped = list_class_names(root, SUFFIXES)
        captions = {name: self._class_captions(name) for name in self.classes}
        entries = [*skipped, *list_classes(root, SUFFIXES, captions, UNREAD_SUFFIXES)]
        source = FolderSource(root, entries, CLASS_FOLDER_ADVICE, len(self.classes))
        super().__init__("image.class_folder", config, source)

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of the subfolders for `label`."""
        return self.classes if field == "label" else ()

    def _class_captions(self, name: str) -> Captions:
        configured = self.config.class_captions.get(name, name.replace("_", " "))
        texts = (configured,) if isinstance(configured, str) else configured or (name,)
        return (CaptionSource("", tuple(self.config.template.replace("{}", text) for text in texts)),)


class TarDataset(ImageDataset):
    """Images in uncompressed WebDataset tar files (a.jpg with a.txt or a.json), read in any order by their offsets.

    Nothing is unpacked, so a name in a tar file is never used as a path.
    """

    class Config(ShardConfig):
        """Tar files and cropping."""

        shards: str = Field("**/*.tar", description="pattern of the tar files in the folder")

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "image.tar")
        source = TarSource(shards, SUFFIXES, config.caption_weights, UNREAD_SUFFIXES)
        super().__init__("image.tar", config, source, shards.index_dir(config.index_dir))
