"""Rows of a table as images with captions: columns, and the forms of their values."""

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
"""Default columns of the image; the first that exists is used."""

CAPTION_COLUMNS = (*CAPTION_FIELDS, "label", "prompt", "description")
"""Default columns of the captions; the first that exists is used."""

WEIGHTS_COLUMN = "caption_weights"


class ColumnConfig(Settings):
    """Columns of a table."""

    image_column: str | None = Field(
        None, description="column of the images: bytes, {bytes, path} or paths; null: `image`, `img`, `jpg` ..."
    )
    caption_columns: tuple[str, ...] = Field(
        (),
        description="columns of the captions, each of several a source; empty: `captions`, `caption`, `text` ...",
    )
    extra_columns: tuple[str, ...] = Field((), description="further fields of the examples, such as `label`")

    def index_settings(self) -> list[Any]:
        """Return the columns on which an index of the table depends."""
        return [self.image_column, *self.caption_columns, "", *self.extra_columns]


class RowParser:
    """Parser of the rows of a table.

    Args:
        config: the configured columns.
        available: all columns of the table.
        component, where: component and table, for messages.

    Raises:
        ConfigError: a column is missing; the message names the existing ones.
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
                raise ConfigError(f"{component}: {where}: got no column '{column}'{suggest_or_list(column, available)}")
        weights_column = (WEIGHTS_COLUMN,) if WEIGHTS_COLUMN in available else ()
        self.text_columns = tuple(dict.fromkeys((*self.caption_columns, *weights_column, *self.extra_columns)))
        self.all_columns = tuple(dict.fromkeys((self.image_column, *self.text_columns)))

    def image_source(self, row: Mapping[str, Any], root: Path | None) -> FileOrBytes:
        """Return the image of a row: its bytes or its file.

        Args:
            row: values by column.
            root: folder of relative paths, which must not lead out of it; None: paths are used as they are.

        Raises:
            ImageError: the value is neither bytes nor a path, or the path leads out of `root`.
        """
        value = row[self.image_column]
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise ImageError(f"column '{self.image_column}' has neither bytes nor a path")
        if root is None:
            return Path(value)
        reason = reject_reason(root, value)
        if reason:
            raise ImageError(f"{value}: {reason}")
        return root / value

    def caption_sources(self, row: Mapping[str, Any], weights: Mapping[str, float]) -> Captions:
        """Return the captions of a row: the value of one column, or each of several columns as a caption source.

        Raises:
            UnusableError: the row has no caption.
        """
        columns = self.caption_columns
        captions = row[columns[0]] if len(columns) == 1 else {name: row[name] for name in columns}
        row_weights = _pairs_to_dict(row.get(WEIGHTS_COLUMN)) or {}
        if isinstance(row_weights, dict):
            row_weights = {source: weight for source, weight in row_weights.items() if weight is not None}
        return read_record({"captions": _pairs_to_dict(captions), WEIGHTS_COLUMN: row_weights}, weights)

    def extra_fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the further fields of a row."""
        return {name: row[name] for name in self.extra_columns}


def _pairs_to_dict(value: Any) -> Any:
    # Arrow returns maps as lists of pairs
    is_pairs = isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    return dict(value) if is_pairs else value


def _find_column(candidates: Sequence[str], available: Sequence[str], component: str, where: str, option: str) -> str:
    by_name = {column.casefold(): column for column in reversed(available)}
    for name in candidates:
        if name in available or name in by_name:
            return name if name in available else by_name[name]
    raise ConfigError(
        f"{component}: {where}: got the columns {', '.join(available[:20]) or 'none'}, expected one of "
        f"{', '.join(candidates[:4])} ... Set dataset.{option}."
    )
