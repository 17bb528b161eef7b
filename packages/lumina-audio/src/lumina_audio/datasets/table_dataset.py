"""Data set of audio files listed in a table, such as those of AudioCaps and MusicCaps."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from lumina_audio.audio_io import AUDIO_SUFFIXES
from lumina_audio.datasets.audio_dataset import AudioCropConfig, AudioDataset
from lumina_core.data.captions import iter_json_rows, read_captions
from lumina_core.data.source import (
    FolderItem,
    FolderListing,
    FolderSource,
    SkippedItem,
    require_dir,
    resolve_file,
    unnamed_items,
)
from lumina_core.errors import ConfigError, UnusableError, suggest
from lumina_core.io import split_lines, user_path

COMPONENT = "audio.table"
COLUMN_NAMES = {
    "file": ("file", "file_name", "filename", "path", "audio", "audio_path", "location"),
    "video": ("youtube_id", "ytid", "id"),
    "start": ("start_time", "start_s", "start"),
    "end": ("end_time", "end_s", "end"),
    "captions": ("captions", "caption", "text", "description"),
}
"""Accepted column names, in the order of preference."""
VIDEO_STEMS = ("{id}_{s}_{e}", "{id}_{s_ms}_{e_ms}", "[{id}]-[{s}-{e}]", "{id}-{s}-{e}", "{id}_{s}", "{id}_{s_ms}")
"""File names, without suffix, of a clip from second s to e (or millisecond s_ms to e_ms) of a video."""
DEFAULT_CLIP_DURATION = 10.0
"""Seconds of a clip of AudioCaps, whose rows have a start only."""
DURATION_TOLERANCE = 0.5
"""Seconds by which the file of a clip may be longer than the clip; a longer file is the full video."""


class TableClip(NamedTuple):
    """File of a row, and the part of it that the row means, in seconds."""

    entry: FolderItem
    start: float
    duration: float | None
    from_video: bool


class TableDataset(AudioDataset):
    """Audio files that the rows of a .csv, .tsv or .jsonl file name.

    A row names a file (column `file`, `path` ...) or a video (`youtube_id`, `ytid` ...), whose audio lies in `folder`
    as `ID.wav`, `YID.wav`, `ID_START.wav`, `ID_START_END.wav` (seconds or milliseconds) or `[ID]-[START-END].wav`, with
    any suffix of an audio file. If a row has times and the file is longer than the clip, that part of the file is read.
    Rows without a file are skipped, each with a reason. A .json may be an array of objects; the capitals of column
    names do not matter; a table by tabs has no quotation marks.
    """

    class Config(AudioCropConfig):
        """Table, folder, selection and cropping."""

        table: str = Field(min_length=1, description="table: csv, tsv, or a JSON object per line")
        folder: str | None = Field(None, description="folder of the audio files; null: that of the table")
        caption_column: str | None = Field(None, description="column of the captions; null: `captions`, `caption` ...")

    def __init__(self, config: Config) -> None:
        self.config = config
        table = user_path(config.table)
        if not table.is_file():
            raise ConfigError(f"{COMPONENT}: got no file {table}. Set dataset.table to an existing table.")
        root = require_dir(config.folder or str(table.parent), COMPONENT)
        rows = list(_iter_clips(root, table, config))
        self._clips = [row for row in rows if isinstance(row, TableClip)]
        entries = [row.entry if isinstance(row, TableClip) else row for row in rows]
        missing = sum(isinstance(row, SkippedItem) and row.reason.startswith("missing") for row in rows)
        advice = (
            f"{missing} of the {len(rows)} files of {table.name} are missing in {root}. Download them, or set "
            "dataset.folder to their folder"
        )
        super().__init__(COMPONENT, config, FolderSource(root, entries, advice))

    def _span(self, item: int) -> tuple[float, float]:
        clip = self._clips[self._index.ref(item)[0]]
        file_duration = self._index.size(item)[0] / 1000
        if clip.from_video and clip.duration is not None and file_duration <= clip.duration + DURATION_TOLERANCE:
            return 0.0, file_duration
        return clip.start, min(file_duration - clip.start, clip.duration or file_duration)


def _iter_clips(root: Path, table: Path, config: TableDataset.Config) -> Iterator[TableClip | SkippedItem]:
    listing = FolderListing(root)
    by_stem: dict[str, str] = {}
    for file in listing.files:
        if file.lower().endswith(AUDIO_SUFFIXES):
            by_stem.setdefault(unicodedata.normalize("NFC", Path(file).stem), file)
    rows = _read_table(table)
    columns = _find_columns(table, rows, config.caption_column)
    named: set[str] = set()
    for position, row in rows:
        if not isinstance(row, dict):
            yield SkippedItem(position, row if isinstance(row, str) else "not a JSON object")
            continue
        try:
            values = {field: row.get(column) for field, column in columns.items()}
            clip = _make_clip(listing, position, values, by_stem, config.caption_weights)
        except UnusableError as error:
            clip = SkippedItem(position, str(error))
        named.add(clip.entry.file if isinstance(clip, TableClip) else clip.name.rpartition(" ")[2])
        yield clip
    yield from listing.skipped
    yield from unnamed_items(listing, AUDIO_SUFFIXES, named, table.name)


def _read_table(path: Path) -> list[tuple[str, Any]]:
    """Read (position, row) of each row; None for a line that is no JSON, a text for why a row is unusable."""
    try:
        if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
            return list(iter_json_rows(path))
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{COMPONENT}: {path} cannot be read ({error}). Expected csv, tsv or jsonl, in UTF-8."
        ) from error
    first_line = next((line for line in split_lines(text) if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",\t;|", key=first_line.count)
    if delimiter == "\t":  # tables by tabs have no quotation marks
        lines = split_lines(text)
        return _name_columns(path, [(number, line.split("\t")) for number, line in enumerate(lines, start=1)])
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        return _name_columns(path, [(reader.line_num, fields) for fields in reader])
    except csv.Error:  # a stray quotation mark: read line by line, so that it costs its own row only
        return _name_columns(path, list(_split_csv_lines(text, delimiter)))


def _split_csv_lines(text: str, delimiter: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(split_lines(text), start=1):
        try:
            yield number, next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
        except csv.Error:
            yield number, 'its quotation marks do not match; write "" for one within a quoted text'


def _name_columns(path: Path, rows: list[tuple[int, Any]]) -> list[tuple[str, Any]]:
    """Make a dict by column of each row of fields; a row of more fields than columns is unusable."""
    rows = [(number, row) for number, row in rows if isinstance(row, str) or any(field.strip() for field in row)]
    if not rows or isinstance(rows[0][1], str):
        return []
    header = [name.strip() for name in rows[0][1]]
    doubled = [name for name in header if name and header.count(name) > 1]
    if doubled:
        raise ConfigError(f"{COMPONENT}: {path}: got the column '{doubled[0]}' twice, expected it once.")
    named: list[tuple[str, Any]] = []
    for number, row in rows[1:]:
        position = f"{path.name}:{number}"
        if isinstance(row, str):
            named.append((position, row))
        elif len(row) > len(header) and any(field.strip() for field in row[len(header) :]):
            reason = (
                f"has {len(row)} fields for {len(header)} columns; put a text with a delimiter into quotation marks"
            )
            named.append((position, reason))
        else:
            named.append((position, dict(zip(header, row, strict=False))))
    return named


def _find_columns(table: Path, rows: list[tuple[str, Any]], caption_column: str | None) -> dict[str, str]:
    """Map the fields of `COLUMN_NAMES` to columns of the table, whatever their capitals.

    Raises:
        ConfigError: the table has no rows, or no column of files or of captions.
    """
    if not rows:
        raise ConfigError(f"{COMPONENT}: {table} has no rows")
    present = list(dict.fromkeys(str(column) for _, row in rows if isinstance(row, dict) for column in row))
    by_name = {column.strip().casefold(): column for column in reversed(present)} | {
        column: column for column in present
    }
    names = {**COLUMN_NAMES, **({"captions": (caption_column, caption_column.casefold())} if caption_column else {})}
    columns = {field: by_name[name] for field, options in names.items() for name in options[::-1] if name in by_name}
    for field, is_missing in {
        "file": not columns.keys() & {"file", "video"},
        "captions": "captions" not in columns,
    }.items():
        if is_missing:
            hint = "" if present else f". Its first rows are unusable: {rows[0][1] or 'no JSON'}"
            raise ConfigError(
                f"{COMPONENT}: {table} has no column of {field}: got {', '.join(present) or 'none'}, expected "
                f"{' or '.join(dict.fromkeys(names[field]))}{suggest(names[field][0], present)}{hint}"
            )
    return columns


def _make_clip(
    listing: FolderListing,
    location: str,
    values: Mapping[str, Any],
    by_stem: Mapping[str, str],
    weights: Mapping[str, float],
) -> TableClip | SkippedItem:
    """Locate the file of a row.

    Raises:
        UnusableError: times or captions are invalid, or the row names no file.
    """
    start, end = _parse_seconds(values.get("start")), _parse_seconds(values.get("end"))
    if start is not None and (start < 0 or (end is not None and end <= start)):
        raise UnusableError(f"start and end: got {start:g} and {end}, expected 0 <= start < end")
    file, video = values.get("file"), values.get("video")
    if not file and not video:
        raise UnusableError("names no file")
    captions = read_captions(values["captions"], weights)
    stems = [] if file else _video_stems(unicodedata.normalize("NFC", str(video)), start, end)
    found = str(file) if file else next((by_stem[stem] for stem in stems if stem in by_stem), None)
    if found is None:
        return SkippedItem(location, f"missing: no {video}.wav, {stems[0]}.wav or similar")
    found, reason = resolve_file(listing, found)
    if reason:
        return SkippedItem(f"{location} {found}"[:200], f"{reason}: no {found}" if reason == "missing" else reason)
    duration = None if end is None else end - (start or 0.0)
    if duration is None and start is not None and video:
        duration = DEFAULT_CLIP_DURATION
    return TableClip(FolderItem(found, captions), start or 0.0, duration, not file)


def _video_stems(video: str, start: float | None, end: float | None) -> list[str]:
    """List the file names, without suffix, that the clip of a video may have."""
    stems = [video, f"Y{video}"]
    if start is None:
        return stems
    s, e = int(start), int(start + DEFAULT_CLIP_DURATION if end is None else end)
    return [stem.format(id=video, s=s, e=e, s_ms=1000 * s, e_ms=1000 * e) for stem in VIDEO_STEMS] + stems


def _parse_seconds(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UnusableError(f"time: got {value!r}, expected a number of seconds")
    return number
