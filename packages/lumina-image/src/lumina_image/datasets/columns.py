"""A row of a table as a picture with captions: which columns hold them, and in which forms they may come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.config import nearest
from lumina_core.errors import ConfigError
from lumina_core.sources.captions import FIELDS, Captions, read_record
from lumina_core.sources.listing import refused
from lumina_core.sources.source import Held
from lumina_image.pictures import PictureError

PICTURES = ("image", "picture", "img", "jpg", "jpeg", "png", "webp", "image_path", "file_name", "file", "path")
"""Columns that are taken for the picture where none is named; the first that is there."""

TEXTS = (*FIELDS, "label", "prompt", "description")
"""The same for the captions."""

WEIGHTS = "caption_weights"


class ColumnSettings(Settings):
    """Which columns of a table are read."""

    picture: str | None = Field(
        None, description="column of the pictures: bytes, {bytes, path} or paths; none: `image` and its like"
    )
    captions: tuple[str, ...] = Field(
        (),
        description="columns of captions; of several each is a source. None named: `captions`, `caption`, `text` ...",
    )
    fields: tuple[str, ...] = Field((), description="further columns that examples have, such as `label`")


class Columns:
    """The columns of one table.

    Args:
        present: all columns of the table.
        part, where: what reads them and where they are, for messages.

    Raises:
        ConfigError: a column that is needed is not there; the message names those that are.
    """

    def __init__(self, asked: ColumnSettings, present: Sequence[str], part: str, where: str) -> None:
        self.picture = asked.picture or _first(PICTURES, present, part, where, "picture")
        self.captions = asked.captions or (_first(TEXTS, present, part, where, "captions"),)
        self.fields = asked.fields
        for column in (self.picture, *self.captions, *self.fields):
            if column not in present:
                raise ConfigError(f"{part}: {where} has no column '{column}'{nearest(column, present)}")
        weighted = (WEIGHTS,) if WEIGHTS in present else ()
        self.said = tuple(dict.fromkeys((*self.captions, *weighted, *self.fields)))
        self.read = tuple(dict.fromkeys((self.picture, *self.said)))

    def held(self, row: Mapping[str, Any], root: Path | None) -> Held:
        """The picture of a row; a path is looked up inside `root`, or taken as it is where that is None.

        Raises:
            PictureError: it is neither bytes nor a path, or the path leads outside.
        """
        value = row[self.picture]
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise PictureError(f"column '{self.picture}' holds neither bytes nor a path")
        if root is None:
            return Path(value)
        reason = refused(root, value)
        if reason:
            raise PictureError(f"{value}: {reason}")
        return root / value

    def pools(self, row: Mapping[str, Any], weights: Mapping[str, float]) -> Captions:
        """The captions of a row: of one column as it says them, of several each column a source.

        Raises:
            PictureError: there is none.
        """
        said = row[self.captions[0]] if len(self.captions) == 1 else {name: row[name] for name in self.captions}
        own = _mapping(row.get(WEIGHTS)) or {}
        known = (
            {source: weight for source, weight in own.items() if weight is not None} if isinstance(own, dict) else own
        )
        return read_record({"captions": _mapping(said), WEIGHTS: known}, weights)

    def more(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The further columns."""
        return {name: row[name] for name in self.fields}


def _mapping(said: Any) -> Any:
    # Arrow hands over its maps as pairs
    pairs = isinstance(said, list) and said and all(isinstance(one, tuple) and len(one) == 2 for one in said)
    return dict(said) if pairs else said


def _first(known: Sequence[str], present: Sequence[str], part: str, where: str, option: str) -> str:
    for name in known:
        if name in present:
            return name
    shown = ", ".join(present[:20]) or "none"
    example = "captions=[COLUMN]" if option == "captions" else "picture=COLUMN"
    raise ConfigError(
        f"{part}: {where} has no column called {', '.join(known[:4])} or the like; name one with "
        f"--set dataset.{example}; its columns: {shown}"
    )
