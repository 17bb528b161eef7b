"""Lists the items of a folder and their captions, names what is left aside, and follows no link out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.data.source import Captions, Item, ItemRef, SkippedItem, read_json, read_lines, read_record
from lumina_core.errors import ConfigError, UnusableError

CAPTIONS_FILE = "captions.jsonl"


class FolderItem(NamedTuple):
    """An item by its path inside the folder, what is said of it, and the number of its class where it has one."""

    file: str
    captions: Captions
    label: int | None = None


class FolderSource:
    """A source that knows all its items by heart: files of one folder."""

    group_dims = 0

    def __init__(
        self, root: Path, entries: Sequence[FolderItem | SkippedItem], advice: str, num_classes: int = 0
    ) -> None:
        self.title, self.advice, self._root, self._num_classes = str(root), advice, root, num_classes
        self._entries = [one for one in entries if isinstance(one, FolderItem)]
        self._skipped = [one for one in entries if isinstance(one, SkippedItem)]

    def count(self) -> int:
        """How many there are."""
        return len(self._entries)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """What was left aside, then every item."""
        yield from self._skipped
        for number, entry in enumerate(self._entries):
            yield Item(entry.file, (number,), self._root / entry.file)

    def fetch(self, ref: ItemRef) -> Path:
        """Its file."""
        return self._root / self._entries[ref[0]].file

    def captions(self, ref: ItemRef) -> Captions:
        """What was said of it when the folder was listed."""
        return self._entries[ref[0]].captions

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """`label`, where the folder has classes."""
        label = self._entries[ref[0]].label
        return {} if label is None else {"label": label}

    def values(self, field: str) -> Sequence[Any] | None:
        """The numbers of all classes for `label`."""
        return range(self._num_classes) if field == "label" and self._num_classes else None

    def index_dir(self) -> None:
        """Nowhere: the files themselves say it."""

    def settings(self) -> Mapping[str, Any]:
        """None; nothing is kept."""
        return {}

    def state(self) -> None:
        """None; nothing is kept."""


def require_dir(folder: str, component: str) -> Path:
    """The folder that an option names.

    Raises:
        ConfigError: there is none; `part` names the data set in the message.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{component}: no folder '{folder}'; give one with --set dataset.folder=DIR")
    return root


def list_folder(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None = None
) -> Iterator[FolderItem | SkippedItem]:
    """What the folder holds, in a fixed order; no item is opened.

    Args:
        suffixes: how files are called that are items, in small letters; a captions.jsonl names its own.
    """
    return _from_jsonl(root, weights) if (root / CAPTIONS_FILE).is_file() else _from_sidecars(root, suffixes, weights)


def list_classes(
    root: Path, suffixes: tuple[str, ...], captions: Mapping[str, Captions]
) -> Iterator[FolderItem | SkippedItem]:
    """The items under each class's folder; a class is numbered by its place in `captions`."""
    for label, name in enumerate(captions):
        for file in find_files(suffixes, root, root / name):
            reason = reject_reason(root, file)
            yield SkippedItem(file, reason) if reason else FolderItem(file, captions[name], label)


def find_files(suffixes: tuple[str, ...], root: Path, under: Path) -> list[str]:
    """The files under a folder that are called so, by their paths inside `root`; links are not followed."""
    files: list[str] = []
    for folder, _, names in os.walk(under, followlinks=False):
        relative_dir = Path(folder).relative_to(root)
        files += [
            (relative_dir / name).as_posix() for name in names if name.lower().endswith(suffixes) and name[0] != "."
        ]
    return sorted(files)


def reject_reason(root: Path, file: str) -> str:
    """Why a file named by its path inside the folder is not to be opened; empty where it may be."""
    path = Path(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or not _is_inside(root, root / path):
        return "leads outside the folder"
    if not (root / path).exists():
        return "missing"
    return "" if (root / path).is_file() else "not a plain file"


def _from_jsonl(root: Path, weights: Mapping[str, float] | None) -> Iterator[FolderItem | SkippedItem]:
    if not _is_inside(root, root / CAPTIONS_FILE):
        yield SkippedItem(CAPTIONS_FILE, "a link that leads outside the folder")
        return
    # bytes, since one line that is not UTF-8 should cost that line only
    with (root / CAPTIONS_FILE).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _from_line(root, line, f"{CAPTIONS_FILE}:{number}", weights)


def _from_line(root: Path, line: bytes, position: str, weights: Mapping[str, float] | None) -> FolderItem | SkippedItem:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return SkippedItem(position, "not a line of JSON")
    if not isinstance(record, dict) or not isinstance(record.get("file"), str) or not record["file"]:
        return SkippedItem(position, 'has no "file"')
    file = str(record["file"])
    try:
        captions = read_record(record, weights)
    except UnusableError as error:
        return SkippedItem(file, str(error))
    reason = reject_reason(root, file)
    return SkippedItem(file, reason) if reason else FolderItem(Path(file).as_posix(), captions)


def _from_sidecars(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None
) -> Iterator[FolderItem | SkippedItem]:
    for file in find_files(suffixes, root, root):
        reason = reject_reason(root, file)
        if reason:
            yield SkippedItem(file, reason)
            continue
        captions = _read_sidecar(root, Path(file), weights)
        yield captions if isinstance(captions, SkippedItem) else FolderItem(file, captions)


def _read_sidecar(root: Path, file: Path, weights: Mapping[str, float] | None) -> Captions | SkippedItem:
    """The captions of the .txt beside an item; of the .json where there is no .txt."""
    text, record = file.with_suffix(".txt"), file.with_suffix(".json")
    sidecar = record if not (root / text).exists() and (root / record).exists() else text
    name = sidecar.as_posix()
    reason = reject_reason(root, name)
    if reason:
        return SkippedItem(name, f"no caption: {reason}")
    try:
        data = (root / sidecar).read_bytes()
        return read_lines(data, weights) if sidecar is text else read_json(data, weights)
    except (OSError, UnusableError) as error:
        return SkippedItem(name, str(error) if isinstance(error, UnusableError) else f"no caption: {error.strerror}")


def _is_inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


INDEX_DIR = ".lumina-index"
"""Folder beside the shards, unless another is named."""


class Shards:
    """The shards of one folder in the order of their names; links that lead out of it are left aside.

    Raises:
        ConfigError: there is no such folder, or the pattern leads out of it.
    """

    def __init__(self, folder: str, pattern: str, component: str) -> None:
        self.root = require_dir(folder, component)
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ConfigError(f"{component}: the pattern '{pattern}' leads outside the folder '{folder}'")
        matches = sorted(file.relative_to(self.root).as_posix() for file in self.root.glob(pattern))
        reasons = {name: reject_reason(self.root, name) for name in matches}
        self.names = [name for name in matches if not reasons[name]]
        self.skipped = [SkippedItem(name, reason) for name, reason in reasons.items() if reason]

    def path(self, shard: int) -> Path:
        """The file of a shard by its number."""
        return self.root / self.names[shard]

    def state(self) -> list[list[str | int]]:
        """Name, bytes and time of change of each, for the index to be made anew when one of them changes."""
        stats = [(name, (self.root / name).stat()) for name in self.names]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def index_dir(self, index: str | None) -> Path:
        """The folder for the index."""
        return Path(index) if index else self.root / INDEX_DIR
