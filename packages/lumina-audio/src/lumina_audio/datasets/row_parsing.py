"""Tables that name sounds: which columns mean what, and which file a row of AudioCaps or MusicCaps stands for."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError

FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio", "audio_path", "location")
ID_COLUMNS = ("youtube_id", "ytid", "id")
START_COLUMNS = ("start_time", "start_s", "start")
END_COLUMNS = ("end_time", "end_s", "end")
CAPTION_COLUMNS = ("captions", "caption", "text", "description")
"""What columns may be called; the first that is there counts."""
DEFAULT_CLIP_DURATION = 10.0
"""Seconds of a clip of AudioCaps, whose rows say only where it starts."""


class TableRow(NamedTuple):
    """A line of a table: where it stands, which file or video it names, from when to when, and what is said."""

    location: str
    file: str | None
    video: str | None
    start: float | None
    end: float | None
    captions: Any


def read_rows(path: Path, caption: str | None, component: str) -> Iterator[TableRow | tuple[str, str]]:
    """The rows of a .csv, .tsv or .jsonl; (place, reason) for one that cannot be used.

    Raises:
        ConfigError: the table cannot be read, or has no columns for sounds or captions; the message names them.
    """
    try:
        numbered = list(_iter_jsonl(path) if path.suffix.lower() in (".jsonl", ".json") else _iter_csv(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{component}: the manifest {path} cannot be read: {error}; wanted csv, tsv or jsonl"
        ) from error
    all_columns = list(dict.fromkeys(column for _, row in numbered if isinstance(row, dict) for column in row))
    file, video = _first_present(FILE_COLUMNS, all_columns), _first_present(ID_COLUMNS, all_columns)
    caption_column = caption or _first_present(CAPTION_COLUMNS, all_columns)
    if not numbered:
        raise ConfigError(f"{component}: the manifest {path} has no rows")
    if (file or video) is None or caption_column not in all_columns:
        missing = (
            "files (file, path, youtube_id, ytid ...)" if (file or video) is None else f"captions ('{caption_column}')"
        )
        raise ConfigError(
            f"{component}: the manifest {path} has no column of {missing}{suggest_or_list(caption_column or 'caption', all_columns)}; "
            f"its columns: {', '.join(all_columns) or 'none'}"
        )
    columns = (
        file,
        video,
        _first_present(START_COLUMNS, all_columns),
        _first_present(END_COLUMNS, all_columns),
        caption_column,
    )
    for line, row in numbered:
        location = f"{path.name}:{line}"
        yield _parse_row(location, row, columns) if isinstance(row, dict) else (location, "not a line of JSON")


def file_stems(row: TableRow) -> list[str]:
    """What the file of a video's clip may be called without its ending, the most telling first."""
    video, start, end = row.video or "", _whole_seconds(row.start), _whole_seconds(row.end)
    candidates = []
    if start is not None:
        stop = end if end is not None else start + int(DEFAULT_CLIP_DURATION)
        candidates += [
            f"{video}_{start}_{stop}", f"{video}_{1000 * start}_{1000 * stop}", f"[{video}]-[{start}-{stop}]",
            f"{video}-{start}-{stop}", f"{video}_{start}", f"{video}_{1000 * start}",
        ]  # fmt: skip
    return [*candidates, video, f"Y{video}"]


def _parse_row(location: str, row: Mapping[str, Any], columns: tuple[str | None, ...]) -> TableRow | tuple[str, str]:
    file, video, start, end, captions = (row.get(column) if column else None for column in columns)
    try:
        begin, stop = _parse_number(start), _parse_number(end)
    except ValueError:
        return location, f"its times {start!r} and {end!r} are no numbers of seconds"
    if begin is not None and (begin < 0 or (stop is not None and stop <= begin)):
        return location, f"its part from {begin:g} s to {stop if stop is None else f'{stop:g}'} s is none"
    if not file and not video:
        return location, "names no file"
    return TableRow(location, str(file) if file else None, str(video) if video else None, begin, stop, captions)


def _parse_number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _whole_seconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _iter_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
        for row in reader:
            yield reader.line_num, {str(key).strip(): value for key, value in row.items() if key}


def _iter_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, None


def _first_present(names: tuple[str, ...], columns: list[str]) -> str | None:
    return next((name for name in names if name in columns), None)
