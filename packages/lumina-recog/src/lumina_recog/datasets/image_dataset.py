"""Data sets of labelled images: a folder per class, tar files, and timm's readers."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from lumina_core.data.captions import Captions, CaptionSource
from lumina_core.data.image_formats import SUFFIXES, UNREAD_SUFFIXES
from lumina_core.data.index import IndexedDataset, load_or_build_index
from lumina_core.data.source import (
    FileOrBytes,
    FolderSource,
    ItemRef,
    Shards,
    Source,
    is_hidden,
    list_class_names,
    list_classes,
    require_dir,
)
from lumina_core.data.tar import TarSource
from lumina_core.errors import ConfigError, UnusableError
from lumina_core.pretrained import require
from lumina_core.protocols import Dataset, Example
from lumina_core.types import Size
from lumina_recog.datasets.transforms import ImageSize, TransformConfig, sample_size, transform
from lumina_recog.image_io import (
    MAX_PIXELS,
    ImageError,
    read_image,
    read_image_size,
    to_rgb,
)

logger = logging.getLogger("lumina.recog")

FOLDER_ADVICE = "Put a folder with images (png, jpg, webp ...) there for each class, named like the class"


class ReadConfig(TransformConfig):
    """Limits of reading, size and augmentation."""

    max_pixels: int = Field(MAX_PIXELS, ge=1, description="largest image in pixels; larger ones are skipped")
    validate_first: int = Field(
        2000, ge=0, description="largest number of images that are all decoded once at the start; else headers only"
    )


class LabelledImages(IndexedDataset):
    """Labelled images of a source: base class.

    Args:
        component: name of the component, for messages.
        config: size and augmentation.
        source: the images and labels.
        classes: names of the classes; the label is the index.
        index_dir: folder of the stored index; None: it is not stored.
    """

    variable_size = True

    def __init__(
        self, component: str, config: ReadConfig, source: Source, classes: Sequence[str], index_dir: Path | None = None
    ) -> None:
        self._read_config, self.classes = config, tuple(classes)
        bounds = {"max_pixels": config.max_pixels}
        index = load_or_build_index(source, self._measure, bounds, config.validate_first, index_dir)
        super().__init__(component, "images", source, index)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `image` (3, H, W) in [-1, 1], `label` (class index) and `file`.

        A damaged image is skipped from then on; the next readable one replaces it.

        Raises:
            ConfigError: no image is readable.
        """
        size = self.size(index, rng)
        config = self._read_config

        def decode(source: FileOrBytes, _: int) -> Any:
            return transform(read_image(source, config.max_pixels), (size[0], size[1]), config, rng)

        return self._get_item(index, "image", rng, decode)

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (height, width) of the image of `get` with an equal generator, without reading it."""
        width, height = self._index.size(int(self._item_numbers[index]))
        return sample_size(self._read_config, (height, width), rng)

    def sizes(self) -> Sequence[Size]:
        """Return (height, width) of every size; empty if every image keeps its own."""
        return self._read_config.image_sizes

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of the classes for `label`."""
        return self.classes if field == "label" else ()

    def _measure(self, source: FileOrBytes, decode: bool) -> tuple[int, int]:
        max_pixels = self._read_config.max_pixels
        return read_image(source, max_pixels).size if decode else read_image_size(source, max_pixels)


class FolderDataset(LabelledImages):
    """Images in one folder per class, as in torchvision's ImageFolder; hidden folders are left out."""

    class Config(ReadConfig):
        """Folder, size and augmentation."""

        folder: str = Field(min_length=1, description="folder with a subfolder per class")

    def __init__(self, config: Config) -> None:
        self.config = config
        root = require_dir(config.folder, "recog.folder")
        classes, skipped = list_class_names(root, SUFFIXES)
        captions: dict[str, Captions] = {name: (CaptionSource("", (name,)),) for name in classes}
        entries = [*skipped, *list_classes(root, SUFFIXES, captions, UNREAD_SUFFIXES)]
        super().__init__("recog.folder", config, FolderSource(root, entries, FOLDER_ADVICE, len(classes)), classes)


class ClassTarSource(TarSource):
    """Tar files of WebDataset with the class index in a `.cls` or `.txt` of the same name."""

    caption_members = ((0, "cls"), (0, "txt"))
    no_caption = "no class: no .cls or .txt with its name"

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Return the class index as `label`.

        Raises:
            ImageError: the content is no number.
        """
        text = str(self.captions(ref)[0].texts[0]).strip()
        if not text.isdecimal():
            raise ImageError(f"label: got {text[:40]!r}, expected a class index")
        return {"label": int(text)}


class TarDataset(LabelledImages):
    """Images in uncompressed WebDataset tar files (a.jpg with a.cls or a.txt, the class index), read in any order."""

    class Config(ReadConfig):
        """Tar files, size and augmentation."""

        folder: str = Field(min_length=1, description="folder of the tar files")
        shards: str = Field("**/*.tar", description="pattern of the tar files in the folder")
        classes: tuple[str, ...] = Field((), description="names of the classes, by index; empty: numbers")
        index_dir: str | None = Field(
            None, description="folder of the index of the shards; null: `.lumina-index` in their folder"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "recog.tar")
        source = ClassTarSource(shards, SUFFIXES, {}, UNREAD_SUFFIXES)
        super().__init__("recog.tar", config, source, config.classes, shards.index_dir(config.index_dir))


class TimmDataset(Dataset):
    """Labelled images by timm's readers: `folder`, `tar` (ImageFolder in a tar), `hfds/NAME` (the datasets library).

    Readers that only iterate (`wds/`, `tfds/`) have no index, so that a resumed training could not repeat their order:
    read WebDataset files with `recog.tar`.
    """

    variable_size = True

    class Config(TransformConfig):
        """Reader, size and augmentation."""

        name: str = Field("", description="timm's name of the reader: folder, tar, hfds/NAME; empty: by the folder")
        root: str | None = Field(None, description="folder or file of the data")
        split: str = Field("train", description="split of the data")
        image_sizes: tuple[ImageSize, ...] = Field(
            ((224, 224),), min_length=1, description="[height, width] in pixels; each draw takes one of them"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.name.startswith(("wds/", "tfds/")):
            raise ConfigError(
                f"recog.timm name: got {config.name}, expected a reader with an index. Use recog.tar for WebDataset."
            )
        data = require("timm", "lumina-recog[timm]", "recog.timm").data
        try:
            self._dataset = data.create_dataset(config.name, root=config.root, split=config.split)
        except Exception as error:  # timm's readers raise many types of errors
            raise ConfigError(
                f"recog.timm: got {config.name or 'folder'} {config.root or ''}, expected data that timm reads "
                f"({' '.join(str(error).split()) or type(error).__name__}). Check name, root and split."
            ) from error
        class_map = getattr(self._dataset.reader, "class_to_idx", None) or {}
        self.classes = tuple(sorted(class_map, key=lambda name: class_map[name]))
        wrong = [name for name in self.classes if not name or is_hidden(name)]
        if wrong:
            found = f"images in the hidden folder {wrong[0]}" if wrong[0] else "images beside the folders of classes"
            raise ConfigError(
                f"recog.timm root: got {found}, which timm reads as a class. Delete them, or use recog.folder."
            )
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `image` (3, H, W) in [-1, 1] and `label` (class index).

        The next readable image replaces a damaged one, so that a resumed training reads the same.

        Raises:
            ConfigError: no image is readable.
        """
        state = rng.getstate()
        for position in itertools.chain(range(index, len(self)), range(index)):
            rng.setstate(state)
            size = self.size(position, rng)
            try:
                content, label = self._dataset.reader[position]
                image = to_rgb(content) if isinstance(content, Image.Image) else read_image(content.read())
            except (OSError, UnusableError) as error:
                if position not in self._damaged:
                    self._damaged.add(position)
                    logger.warning("recog.timm skipped %s (%s)", self._dataset.filename(position), error)
                continue
            return {"image": transform(image, (size[0], size[1]), self.config, rng), "label": int(label)}
        raise ConfigError(f"recog.timm: no image of {self.config.root} can be read. Check the files.")

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of the classes for `label`, if the reader has them."""
        return self.classes if field == "label" else ()

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (height, width) of the image of `get` with an equal generator, without reading it."""
        return sample_size(self.config, (0, 0), rng)

    def sizes(self) -> Sequence[Size]:
        """Return (height, width) of every size."""
        return self.config.image_sizes
