"""A data set out of a table that names sounds and says what is heard, like those of AudioCaps and MusicCaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from lumina_audio.datasets.rows import CLIP, Row, read_rows, stems
from lumina_audio.datasets.sound_set import Cutting, SoundSet
from lumina_audio.sounds import SUFFIXES
from lumina_core.errors import ConfigError
from lumina_core.sources.captions import Captions, read_captions
from lumina_core.sources.listing import Entry, Listed, existing, files_called, refused
from lumina_core.sources.source import Skipped
from lumina_core.sources.unusable import UnusableError

PART = "audio.manifest"
SLACK = 0.5
"""A file at most so many seconds longer than its clip was cut out before; a longer one holds the whole video."""


class Clip(NamedTuple):
    """A row whose file is there."""

    entry: Entry
    start: float
    seconds: float | None
    of_video: bool


class ManifestDataset(SoundSet):
    """Sounds that a .csv, .tsv or .jsonl names.

    A row names a file (`file`, `path` ...), or a video (`youtube_id`, `ytid`) whose sound was fetched before and lies
    in `folder` as `ID.wav`, `YID.wav`, `ID_START.wav`, `ID_START_END.wav` (seconds or milliseconds) or
    `[ID]-[START-END].wav`, with any ending that is a sound's. Where it says a time, and the file is longer than the
    clip, the part is read; AudioCaps' rows say only the start of 10 seconds. Rows whose file is missing are skipped
    and named.
    """

    class Config(Cutting):
        """Which table, where the sounds are, and how they are cut."""

        manifest: str = Field(min_length=1, description="the table: csv, tsv, or a JSON object a line")
        folder: str | None = Field(None, description="the folder of the sounds; none: that of the manifest")
        captions: str | None = Field(None, description="column of the captions; none: `caption`, `text` ...")

    def __init__(self, config: Config) -> None:
        self.config = config
        table = Path(config.manifest)
        if not table.is_file():
            raise ConfigError(f"{PART}: no file '{config.manifest}'; give one with --set dataset.manifest=FILE")
        root = existing(config.folder or str(table.parent), PART)
        found = list(_clips(root, table, config))
        self._clips = [one for one in found if isinstance(one, Clip)]
        listed = [one.entry if isinstance(one, Clip) else one for one in found]
        missing = sum(isinstance(one, Skipped) and one.reason.startswith("missing") for one in found)
        advice = (
            f"{missing} of the {len(found)} files of {table.name} are missing in {root}: fetch them, or name their "
            "folder with --set dataset.folder=DIR"
        )
        super().__init__(PART, config, Listed(root, listed, advice))

    def _span(self, number: int) -> tuple[float, float]:
        clip = self._clips[self._index.place(number)[0]]
        lasts = self._index.size(number)[0] / 1000
        if clip.of_video and clip.seconds is not None and lasts <= clip.seconds + SLACK:
            return 0.0, lasts
        return clip.start, min(lasts - clip.start, clip.seconds or lasts)


def _clips(root: Path, table: Path, config: ManifestDataset.Config) -> Iterator[Clip | Skipped]:
    by_stem: dict[str, str] = {}
    for file in files_called(SUFFIXES, root, root):
        by_stem.setdefault(Path(file).stem, file)
    for row in read_rows(table, config.captions, PART):
        yield _clip(root, row, by_stem, config.caption_weights) if isinstance(row, Row) else Skipped(*row)


def _clip(root: Path, row: Row, by_stem: Mapping[str, str], weights: Mapping[str, float]) -> Clip | Skipped:
    try:
        captions: Captions = read_captions(row.said, weights)
    except UnusableError as error:
        return Skipped(row.place, str(error))
    file = row.file or _found(stems(row), by_stem)
    if file is None:
        return Skipped(row.place, f"missing: no {row.video}.wav, {stems(row)[0]}.wav or their like")
    reason = refused(root, file)
    if reason:
        return Skipped(f"{row.place} {file}"[:200], f"{reason}: no {file}" if reason == "missing" else reason)
    start = row.start or 0.0
    seconds = row.end - start if row.end is not None else CLIP if row.start is not None and row.video else None
    return Clip(Entry(Path(file).as_posix(), captions), start, seconds, row.file is None)


def _found(names: Sequence[str], by_stem: Mapping[str, str]) -> str | None:
    return next((by_stem[name] for name in names if name in by_stem), None)
