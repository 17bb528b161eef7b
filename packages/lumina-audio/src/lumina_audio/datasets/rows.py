"""Tables that name sounds: which columns mean what, and which file a row of AudioCaps or MusicCaps stands for."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.config import nearest
from lumina_core.errors import ConfigError

FILES = ("file", "file_name", "filename", "path", "audio", "audio_path", "location")
IDS = ("youtube_id", "ytid", "id")
STARTS = ("start_time", "start_s", "start")
ENDS = ("end_time", "end_s", "end")
CAPTIONS = ("captions", "caption", "text", "description")
"""What columns may be called; the first that is there counts."""
CLIP = 10.0
"""Seconds of a clip of AudioCaps, whose rows say only where it starts."""


class Row(NamedTuple):
    """A line of a table: where it stands, which file or video it names, from when to when, and what is said."""

    place: str
    file: str | None
    video: str | None
    start: float | None
    end: float | None
    said: Any


def read_rows(path: Path, caption: str | None, part: str) -> Iterator[Row | tuple[str, str]]:
    """The rows of a .csv, .tsv or .jsonl; (place, reason) for one that cannot be used.

    Raises:
        ConfigError: the table cannot be read, or has no columns for sounds or captions; the message names them.
    """
    try:
        numbered = list(_jsonl(path) if path.suffix.lower() in (".jsonl", ".json") else _csv(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{part}: the manifest {path} cannot be read: {error}; wanted csv, tsv or jsonl") from error
    known = list(dict.fromkeys(column for _, row in numbered if isinstance(row, dict) for column in row))
    file, video = _first(FILES, known), _first(IDS, known)
    said = caption or _first(CAPTIONS, known)
    if not numbered:
        raise ConfigError(f"{part}: the manifest {path} has no rows")
    if (file or video) is None or said not in known:
        wanted = "files (file, path, youtube_id, ytid ...)" if (file or video) is None else f"captions ('{said}')"
        raise ConfigError(
            f"{part}: the manifest {path} has no column of {wanted}{nearest(said or 'caption', known)}; "
            f"its columns: {', '.join(known) or 'none'}"
        )
    columns = (file, video, _first(STARTS, known), _first(ENDS, known), said)
    for line, row in numbered:
        place = f"{path.name}:{line}"
        yield _row(place, row, columns) if isinstance(row, dict) else (place, "not a line of JSON")


def stems(row: Row) -> list[str]:
    """What the file of a video's clip may be called without its ending, the most telling first."""
    video, start, end = row.video or "", _whole(row.start), _whole(row.end)
    found = []
    if start is not None:
        stop = end if end is not None else start + int(CLIP)
        found += [
            f"{video}_{start}_{stop}", f"{video}_{1000 * start}_{1000 * stop}", f"[{video}]-[{start}-{stop}]",
            f"{video}-{start}-{stop}", f"{video}_{start}", f"{video}_{1000 * start}",
        ]  # fmt: skip
    return [*found, video, f"Y{video}"]


def _row(place: str, row: Mapping[str, Any], columns: tuple[str | None, ...]) -> Row | tuple[str, str]:
    file, video, start, end, said = (row.get(column) if column else None for column in columns)
    try:
        begin, stop = _number(start), _number(end)
    except ValueError:
        return place, f"its times {start!r} and {end!r} are no numbers of seconds"
    if begin is not None and (begin < 0 or (stop is not None and stop <= begin)):
        return place, f"its part from {begin:g} s to {stop if stop is None else f'{stop:g}'} s is none"
    if not file and not video:
        return place, "names no file"
    return Row(place, str(file) if file else None, str(video) if video else None, begin, stop, said)


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
        for row in reader:
            yield reader.line_num, {str(key).strip(): value for key, value in row.items() if key}


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, None


def _first(names: tuple[str, ...], known: list[str]) -> str | None:
    return next((name for name in names if name in known), None)
