"""A data set out of a table that names sounds and says what is heard, like those of AudioCaps and MusicCaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from lumina_audio.audio_io import AUDIO_SUFFIXES
from lumina_audio.datasets.audio_dataset import AudioCropConfig, AudioDataset
from lumina_audio.datasets.row_parsing import DEFAULT_CLIP_DURATION, TableRow, file_stems, read_rows
from lumina_core.data.captions import Captions, read_captions
from lumina_core.data.source import FolderItem, FolderSource, SkippedItem, find_files, reject_reason, require_dir
from lumina_core.errors import ConfigError, UnusableError

COMPONENT = "audio.table"
DURATION_TOLERANCE = 0.5
"""A file at most so many seconds longer than its clip was cut out before; a longer one holds the whole video."""


class TableClip(NamedTuple):
    """A row whose file is there."""

    entry: FolderItem
    start: float
    duration: float | None
    from_video: bool


class TableDataset(AudioDataset):
    """Sounds that a .csv, .tsv or .jsonl names.

    A row names a file (`file`, `path` ...), or a video (`youtube_id`, `ytid`) whose sound was fetched before and lies
    in `folder` as `ID.wav`, `YID.wav`, `ID_START.wav`, `ID_START_END.wav` (seconds or milliseconds) or
    `[ID]-[START-END].wav`, with any ending that is a sound's. Where it says a time, and the file is longer than the
    clip, the part is read; AudioCaps' rows say only the start of 10 seconds. Rows whose file is missing are skipped
    and named.
    """

    class Config(AudioCropConfig):
        """Which table, where the sounds are, and how they are cut."""

        table: str = Field(min_length=1, description="the table: csv, tsv, or a JSON object a line")
        folder: str | None = Field(None, description="the folder of the sounds; none: that of the table")
        caption_column: str | None = Field(None, description="column of the captions; none: `caption`, `text` ...")

    def __init__(self, config: Config) -> None:
        self.config = config
        table = Path(config.table)
        if not table.is_file():
            raise ConfigError(f"{COMPONENT}: no file '{config.table}'; give one with --set dataset.table=FILE")
        root = require_dir(config.folder or str(table.parent), COMPONENT)
        rows = list(_iter_clips(root, table, config))
        self._clips = [row for row in rows if isinstance(row, TableClip)]
        entries = [row.entry if isinstance(row, TableClip) else row for row in rows]
        missing = sum(isinstance(row, SkippedItem) and row.reason.startswith("missing") for row in rows)
        advice = (
            f"{missing} of the {len(rows)} files of {table.name} are missing in {root}: fetch them, or name their "
            "folder with --set dataset.folder=DIR"
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
    for row in read_rows(table, config.caption_column, COMPONENT):
        yield _make_clip(root, row, by_stem, config.caption_weights) if isinstance(row, TableRow) else SkippedItem(*row)


def _make_clip(
    root: Path, row: TableRow, by_stem: Mapping[str, str], weights: Mapping[str, float]
) -> TableClip | SkippedItem:
    try:
        captions: Captions = read_captions(row.captions, weights)
    except UnusableError as error:
        return SkippedItem(row.location, str(error))
    file = row.file or _find_file(file_stems(row), by_stem)
    if file is None:
        return SkippedItem(row.location, f"missing: no {row.video}.wav, {file_stems(row)[0]}.wav or their like")
    reason = reject_reason(root, file)
    if reason:
        return SkippedItem(f"{row.location} {file}"[:200], f"{reason}: no {file}" if reason == "missing" else reason)
    start = row.start or 0.0
    duration = (
        row.end - start
        if row.end is not None
        else DEFAULT_CLIP_DURATION
        if row.start is not None and row.video
        else None
    )
    return TableClip(FolderItem(Path(file).as_posix(), captions), start, duration, row.file is None)


def _find_file(names: Sequence[str], by_stem: Mapping[str, str]) -> str | None:
    return next((by_stem[name] for name in names if name in by_stem), None)
