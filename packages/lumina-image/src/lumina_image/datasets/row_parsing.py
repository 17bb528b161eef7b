"""A row of a table as a picture with captions: which columns hold them, and in which forms they may come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.data.captions import CAPTION_FIELDS, Captions, read_record
from lumina_core.data.source import FileOrBytes, reject_reason
from lumina_core.errors import ConfigError
from lumina_image.image_io import ImageError

IMAGE_COLUMNS = ("image", "picture", "img", "jpg", "jpeg", "png", "webp", "image_path", "file_name", "file", "path")
"""Columns that are taken for the picture where none is named; the first that is there."""

CAPTION_COLUMNS = (*CAPTION_FIELDS, "label", "prompt", "description")
"""The same for the captions."""

WEIGHTS_COLUMN = "caption_weights"


class ColumnConfig(Settings):
    """Which columns of a table are read."""

    image_column: str | None = Field(
        None, description="column of the pictures: bytes, {bytes, path} or paths; none: `image` and its like"
    )
    caption_columns: tuple[str, ...] = Field(
        (),
        description="columns of captions; of several each is a source. None named: `captions`, `caption`, `text` ...",
    )
    extra_columns: tuple[str, ...] = Field((), description="further columns that examples have, such as `label`")


class RowParser:
    """The columns of one table.

    Args:
        present: all columns of the table.
        part, where: what reads them and where they are, for messages.

    Raises:
        ConfigError: a column that is needed is not there; the message names those that are.
    """

    def __init__(self, config: ColumnConfig, available: Sequence[str], component: str, where: str) -> None:
        self.image_column = config.image_column or _find_column(
            IMAGE_COLUMNS, available, component, where, "image_column"
        )
        self.caption_columns = config.caption_columns or (
            _find_column(CAPTION_COLUMNS, available, component, where, "caption_columns"),
        )
        self.extra_columns = config.extra_columns
        for column in (self.image_column, *self.caption_columns, *self.extra_columns):
            if column not in available:
                raise ConfigError(f"{component}: {where} has no column '{column}'{suggest_or_list(column, available)}")
        weights_column = (WEIGHTS_COLUMN,) if WEIGHTS_COLUMN in available else ()
        self.text_columns = tuple(dict.fromkeys((*self.caption_columns, *weights_column, *self.extra_columns)))
        self.all_columns = tuple(dict.fromkeys((self.image_column, *self.text_columns)))

    def image_source(self, row: Mapping[str, Any], root: Path | None) -> FileOrBytes:
        """The picture of a row; a path is looked up inside `root`, or taken as it is where that is None.

        Raises:
            PictureError: it is neither bytes nor a path, or the path leads outside.
        """
        value = row[self.image_column]
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise ImageError(f"column '{self.image_column}' holds neither bytes nor a path")
        if root is None:
            return Path(value)
        reason = reject_reason(root, value)
        if reason:
            raise ImageError(f"{value}: {reason}")
        return root / value

    def caption_sources(self, row: Mapping[str, Any], weights: Mapping[str, float]) -> Captions:
        """The captions of a row: of one column as it says them, of several each column a source.

        Raises:
            PictureError: there is none.
        """
        raw_captions = (
            row[self.caption_columns[0]]
            if len(self.caption_columns) == 1
            else {name: row[name] for name in self.caption_columns}
        )
        row_weights = _pairs_to_dict(row.get(WEIGHTS_COLUMN)) or {}
        valid_weights = (
            {source: weight for source, weight in row_weights.items() if weight is not None}
            if isinstance(row_weights, dict)
            else row_weights
        )
        return read_record({"captions": _pairs_to_dict(raw_captions), WEIGHTS_COLUMN: valid_weights}, weights)

    def extra_fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The further columns."""
        return {name: row[name] for name in self.extra_columns}


def _pairs_to_dict(value: Any) -> Any:
    # Arrow hands over its maps as pairs
    is_pairs = isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    return dict(value) if is_pairs else value


def _find_column(candidates: Sequence[str], available: Sequence[str], component: str, where: str, option: str) -> str:
    for name in candidates:
        if name in available:
            return name
    columns_text = ", ".join(available[:20]) or "none"
    example = "caption_columns=[COLUMN]" if option == "caption_columns" else "image_column=COLUMN"
    raise ConfigError(
        f"{component}: {where} has no column called {', '.join(candidates[:4])} or the like; name one with "
        f"--set dataset.{example}; its columns: {columns_text}"
    )
