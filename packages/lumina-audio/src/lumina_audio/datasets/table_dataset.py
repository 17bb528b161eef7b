"""Data set of audio files listed in a table, such as those of AudioCaps and MusicCaps."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from lumina_audio.audio_io import AUDIO_SUFFIXES
from lumina_audio.datasets.audio_dataset import AudioCropConfig, AudioDataset
from lumina_core.data.captions import read_captions
from lumina_core.data.source import FolderItem, FolderSource, SkippedItem, find_files, reject_reason, require_dir
from lumina_core.errors import ConfigError, UnusableError, suggest

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
    Rows without a file are skipped, each with a reason.
    """

    class Config(AudioCropConfig):
        """Table, folder, selection and cropping."""

        table: str = Field(min_length=1, description="table: csv, tsv, or a JSON object per line")
        folder: str | None = Field(None, description="folder of the audio files; null: that of the table")
        caption_column: str | None = Field(None, description="column of the captions; null: `captions`, `caption` ...")

    def __init__(self, config: Config) -> None:
        self.config = config
        table = Path(config.table)
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
    by_stem: dict[str, str] = {}
    for file in find_files(AUDIO_SUFFIXES, root, root):
        by_stem.setdefault(Path(file).stem, file)
    numbered = _read_table(table)
    columns = _find_columns(table, numbered, config.caption_column)
    for line, row in numbered:
        location = f"{table.name}:{line}"
        if not isinstance(row, dict):
            yield SkippedItem(location, "not a JSON object")
            continue
        try:
            values = {field: row.get(column) for field, column in columns.items()}
            yield _make_clip(root, location, values, by_stem, config.caption_weights)
        except UnusableError as error:
            yield SkippedItem(location, str(error))


def _read_table(path: Path) -> list[tuple[int, Any]]:
    """Read (line number, row) of each row; a line that is no JSON is None."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix.lower() in (".jsonl", ".json"):
                return [(number, _parse_json(line)) for number, line in enumerate(lines, start=1) if line.strip()]
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
            return [(reader.line_num, {str(k).strip(): v for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{COMPONENT}: {path} cannot be read ({error}). Expected csv, tsv or jsonl.") from error


def _parse_json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _find_columns(table: Path, rows: list[tuple[int, Any]], caption_column: str | None) -> dict[str, str]:
    """Map the fields of `COLUMN_NAMES` to columns of the table.

    Raises:
        ConfigError: the table has no rows, or no column of files or of captions.
    """
    if not rows:
        raise ConfigError(f"{COMPONENT}: {table} has no rows")
    present = list(dict.fromkeys(column for _, row in rows if isinstance(row, dict) for column in row))
    names = {**COLUMN_NAMES, **({"captions": (caption_column,)} if caption_column else {})}
    columns = {field: name for field, options in names.items() for name in options[::-1] if name in present}
    for field, is_missing in {
        "file": not columns.keys() & {"file", "video"},
        "captions": "captions" not in columns,
    }.items():
        if is_missing:
            raise ConfigError(
                f"{COMPONENT}: {table} has no column of {field}: got {', '.join(present) or 'none'}, expected "
                f"{' or '.join(names[field])}{suggest(names[field][0], present)}"
            )
    return columns


def _make_clip(
    root: Path, location: str, values: Mapping[str, Any], by_stem: Mapping[str, str], weights: Mapping[str, float]
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
    stems = [] if file else _video_stems(str(video), start, end)
    found = str(file) if file else next((by_stem[stem] for stem in stems if stem in by_stem), None)
    if found is None:
        return SkippedItem(location, f"missing: no {video}.wav, {stems[0]}.wav or similar")
    reason = reject_reason(root, found)
    if reason:
        return SkippedItem(f"{location} {found}"[:200], f"{reason}: no {found}" if reason == "missing" else reason)
    duration = None if end is None else end - (start or 0.0)
    if duration is None and start is not None and video:
        duration = DEFAULT_CLIP_DURATION
    return TableClip(FolderItem(Path(found).as_posix(), captions), start or 0.0, duration, not file)


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
