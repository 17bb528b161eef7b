"""A data set out of a folder of pictures, with captions beside them; what cannot be used is skipped and named."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.parts import Example
from lumina_image.listing import Entry, Skipped, list_folder
from lumina_image.pictures import PictureError, check_header, read_picture, square, to_tensor

logger = logging.getLogger("lumina.image")


class FolderDataset:
    """Pictures of one folder and what lies under it, cut to squares.

    Captions come from `captions.jsonl` ({"file": ..., "caption": one or a list}) where there is one, else from a `.txt`
    beside each picture (a caption a line). Of several captions one is drawn each time.
    """

    class Config(Settings):
        """Where the pictures are and how they are cut."""

        folder: str = Field(min_length=1, description="the folder, absolute or from where the command is run")
        side: int = Field(64, ge=8, le=4096, description="side of the squares, in pixels")
        crop: Literal["random", "centre"] = Field("random", description="where the square is cut from a longer picture")
        max_pixels: int = Field(64_000_000, ge=1, description="larger pictures are skipped, by their header")
        decode_first: int = Field(
            2000, ge=0, description="up to so many pictures are decoded once at the start; of more only the headers are"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._root = Path(config.folder)
        if not self._root.is_dir():
            raise ConfigError(f"image.folder: no folder '{config.folder}'; give one with --set dataset.folder=DIR")
        entries, self.skipped = list_folder(self._root)
        thorough = len(entries) <= config.decode_first
        self._entries = [entry for entry in entries if self._usable(entry, thorough)]
        self._broken: set[int] = set()
        self._report(len(self._entries) + len(self.skipped))

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, index: int, draw: random.Random) -> Example:
        """`picture` (3, side, side) in [-1, 1], `caption`, and `file`, its path inside the folder.

        A picture that turns out to be damaged is skipped for good: the next whole one stands in.

        Raises:
            ConfigError: no picture of the folder can be read any more.
        """
        for place in (*range(index, len(self)), *range(index)):
            image = None if place in self._broken else self._read(place)
            if image is not None:
                entry = self._entries[place]
                return {
                    "picture": to_tensor(np.asarray(self._cut(image, draw))),
                    "caption": draw.choice(entry.captions),
                    "file": entry.file,
                }
        raise ConfigError(f"image.folder: no picture of '{self.config.folder}' can be read any more")

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: every caption, each once. `file`: every path.

        Raises:
            ConfigError: the field is another.
        """
        if field == "caption":
            return list(dict.fromkeys(caption for entry in self._entries for caption in entry.captions))
        if field == "file":
            return [entry.file for entry in self._entries]
        raise ConfigError(f"image.folder lists the values of 'caption' and 'file', not of '{field}'")

    def weight(self, index: int) -> float:
        """1: every picture is drawn equally often."""
        return 1.0

    def summary(self) -> str:
        """One line: how many pictures are used, how many were skipped, which and why."""
        used = len(self._entries) - len(self._broken)
        if not self.skipped:
            return f"{self.config.folder}: {used} pictures, none skipped"
        named = "; ".join(f"{name} ({reason})" for name, reason in self.skipped[:8])
        more = f"; and {len(self.skipped) - 8} more" if len(self.skipped) > 8 else ""
        return f"{self.config.folder}: {used} pictures, {len(self.skipped)} skipped: {named}{more}"

    def _usable(self, entry: Entry, thorough: bool) -> bool:
        path = self._root / entry.file
        try:
            if thorough:
                read_picture(path, self.config.max_pixels)
            else:
                check_header(path, self.config.max_pixels)
        except PictureError as error:
            self.skipped.append(Skipped(entry.file, str(error)))
            return False
        return True

    def _report(self, found: int) -> None:
        if not self._entries:
            why = self.summary() if found else f"'{self.config.folder}' is empty"
            raise ConfigError(
                f"image.folder: nothing to train on: {why}. Put pictures there (png, jpg, webp ...), each with a .txt "
                'of the same name, or a captions.jsonl with lines like {"file": "a.png", "caption": "a red fox"}'
            )
        if self.skipped:
            logger.warning("%s", self.summary())

    def _read(self, place: int) -> Image.Image | None:
        file = self._entries[place].file
        try:
            return read_picture(self._root / file, self.config.max_pixels)
        except PictureError as error:
            self._broken.add(place)
            self.skipped.append(Skipped(file, str(error)))
            logger.warning("skipped from now on: %s (%s); %d skipped in all", file, error, len(self.skipped))
            return None

    def _cut(self, image: Image.Image, draw: random.Random) -> Image.Image:
        if self.config.crop == "centre":
            return square(image, self.config.side)
        return square(image, self.config.side, across=draw.random(), down=draw.random())
