"""Lists the items of a folder and their captions, names what is left aside, and follows no link out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.errors import ConfigError
from lumina_core.sources.captions import Captions, read_json, read_lines, read_record
from lumina_core.sources.source import Found, Place, Skipped
from lumina_core.sources.unusable import UnusableError

CAPTIONS = "captions.jsonl"


class Entry(NamedTuple):
    """An item by its path inside the folder, what is said of it, and the number of its class where it has one."""

    file: str
    captions: Captions
    label: int | None = None


class Listed:
    """A source that knows all its items by heart: files of one folder."""

    together = 0

    def __init__(self, root: Path, found: Sequence[Entry | Skipped], advice: str, classes: int = 0) -> None:
        self.title, self.advice, self._root, self._classes = str(root), advice, root, classes
        self._entries = [one for one in found if isinstance(one, Entry)]
        self._skipped = [one for one in found if isinstance(one, Skipped)]

    def count(self) -> int:
        """How many there are."""
        return len(self._entries)

    def scan(self) -> Iterator[Found | Skipped]:
        """What was left aside, then every item."""
        yield from self._skipped
        for number, entry in enumerate(self._entries):
            yield Found(entry.file, (number,), self._root / entry.file)

    def held(self, place: Place) -> Path:
        """Its file."""
        return self._root / self._entries[place[0]].file

    def captions(self, place: Place) -> Captions:
        """What was said of it when the folder was listed."""
        return self._entries[place[0]].captions

    def more(self, place: Place) -> Mapping[str, Any]:
        """`label`, where the folder has classes."""
        label = self._entries[place[0]].label
        return {} if label is None else {"label": label}

    def values(self, field: str) -> Sequence[Any] | None:
        """The numbers of all classes for `label`."""
        return range(self._classes) if field == "label" and self._classes else None

    def home(self) -> None:
        """Nowhere: the files themselves say it."""

    def settings(self) -> Mapping[str, Any]:
        """None; nothing is kept."""
        return {}

    def state(self) -> None:
        """None; nothing is kept."""


def existing(folder: str, part: str) -> Path:
    """The folder that an option names.

    Raises:
        ConfigError: there is none; `part` names the data set in the message.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{part}: no folder '{folder}'; give one with --set dataset.folder=DIR")
    return root


def list_folder(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None = None
) -> Iterator[Entry | Skipped]:
    """What the folder holds, in a fixed order; no item is opened.

    Args:
        suffixes: how files are called that are items, in small letters; a captions.jsonl names its own.
    """
    return _from_jsonl(root, weights) if (root / CAPTIONS).is_file() else _from_sidecars(root, suffixes, weights)


def list_classes(root: Path, suffixes: tuple[str, ...], captions: Mapping[str, Captions]) -> Iterator[Entry | Skipped]:
    """The items under each class's folder; a class is numbered by its place in `captions`."""
    for label, name in enumerate(captions):
        for file in files_called(suffixes, root, root / name):
            reason = refused(root, file)
            yield Skipped(file, reason) if reason else Entry(file, captions[name], label)


def files_called(suffixes: tuple[str, ...], root: Path, under: Path) -> list[str]:
    """The files under a folder that are called so, by their paths inside `root`; links are not followed."""
    found: list[str] = []
    for folder, _, names in os.walk(under, followlinks=False):
        here = Path(folder).relative_to(root)
        found += [(here / name).as_posix() for name in names if name.lower().endswith(suffixes) and name[0] != "."]
    return sorted(found)


def refused(root: Path, file: str) -> str:
    """Why a file named by its path inside the folder is not to be opened; empty where it may be."""
    path = Path(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or not _inside(root, root / path):
        return "leads outside the folder"
    if not (root / path).exists():
        return "missing"
    return "" if (root / path).is_file() else "not a plain file"


def _from_jsonl(root: Path, weights: Mapping[str, float] | None) -> Iterator[Entry | Skipped]:
    if not _inside(root, root / CAPTIONS):
        yield Skipped(CAPTIONS, "a link that leads outside the folder")
        return
    # bytes, since one line that is not UTF-8 should cost that line only
    with (root / CAPTIONS).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _from_line(root, line, f"{CAPTIONS}:{number}", weights)


def _from_line(root: Path, line: bytes, place: str, weights: Mapping[str, float] | None) -> Entry | Skipped:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError):
        return Skipped(place, "not a line of JSON")
    if not isinstance(said, dict) or not isinstance(said.get("file"), str) or not said["file"]:
        return Skipped(place, 'has no "file"')
    file = str(said["file"])
    try:
        captions = read_record(said, weights)
    except UnusableError as error:
        return Skipped(file, str(error))
    reason = refused(root, file)
    return Skipped(file, reason) if reason else Entry(Path(file).as_posix(), captions)


def _from_sidecars(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None
) -> Iterator[Entry | Skipped]:
    for file in files_called(suffixes, root, root):
        reason = refused(root, file)
        if reason:
            yield Skipped(file, reason)
            continue
        said = _sidecar(root, Path(file), weights)
        yield said if isinstance(said, Skipped) else Entry(file, said)


def _sidecar(root: Path, file: Path, weights: Mapping[str, float] | None) -> Captions | Skipped:
    """The captions of the .txt beside an item; of the .json where there is no .txt."""
    text, record = file.with_suffix(".txt"), file.with_suffix(".json")
    beside = record if not (root / text).exists() and (root / record).exists() else text
    name = beside.as_posix()
    reason = refused(root, name)
    if reason:
        return Skipped(name, f"no caption: {reason}")
    try:
        data = (root / beside).read_bytes()
        return read_lines(data, weights) if beside is text else read_json(data, weights)
    except (OSError, UnusableError) as error:
        return Skipped(name, str(error) if isinstance(error, UnusableError) else f"no caption: {error.strerror}")


def _inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False
