"""Sources of items with captions: the base class, and files of one folder."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.data.captions import Captions, read_json, read_lines, read_record
from lumina_core.errors import ConfigError, UnusableError

CAPTIONS_FILE = "captions.jsonl"
INDEX_DIR = ".lumina-index"
"""Folder of the index, in the folder of the shards unless another is configured."""

FileOrBytes = Path | bytes
"""Encoded item: a file, or its bytes."""

ItemRef = tuple[int, ...]
"""Numbers by which a source finds an item again without reading the others."""


class Item(NamedTuple):
    """Item of a source during a scan: name, reference, and its file or bytes."""

    name: str
    ref: ItemRef
    content: FileOrBytes


class SkippedItem(NamedTuple):
    """Item, line or shard that is not used, and the reason."""

    name: str
    reason: str


class Source(ABC):
    """Items with captions, scanned once in order and then read in any order: base class of sources."""

    title: str
    """Name in messages: the folder."""
    advice: str
    """What to do if the source is empty, for the error message."""
    group_dims: int = 0
    """Number of leading entries of a reference that identify a read group (a row group); 0: no groups."""

    @abstractmethod
    def count(self) -> int:
        """Return the approximate number of items; only called to build an index."""

    @abstractmethod
    def scan(self) -> Iterator[Item | SkippedItem]:
        """Iterate over all items in a fixed order."""

    @abstractmethod
    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """Return the file or the bytes of one item.

        Raises:
            UnusableError: it cannot be read any more.
        """

    @abstractmethod
    def captions(self, ref: ItemRef) -> Captions:
        """Return the captions of one item.

        Raises:
            UnusableError: they cannot be read any more.
        """

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Return further fields of the example, such as `label`."""
        return {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Return every value of a further field; None: no such field."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Return all that an index depends on except the data, as JSON takes it."""
        return {}

    def state(self) -> Any:
        """Return what changes when the data change, as JSON takes it."""
        return None


class FolderItem(NamedTuple):
    """File of a folder (path relative to it) with its captions and, in a folder of classes, the class index."""

    file: str
    captions: Captions
    label: int | None = None


class FolderSource(Source):
    """Listed files of one folder.

    Args:
        root: the folder.
        entries: from `list_folder` or `list_classes`.
        advice: what to do if there are none.
        num_classes: number of classes, 0 for a folder without classes.
    """

    def __init__(
        self, root: Path, entries: Sequence[FolderItem | SkippedItem], advice: str, num_classes: int = 0
    ) -> None:
        self.title, self.advice, self._root, self._num_classes = str(root), advice, root, num_classes
        self._entries = [entry for entry in entries if isinstance(entry, FolderItem)]
        self._skipped = [entry for entry in entries if isinstance(entry, SkippedItem)]

    def count(self) -> int:
        """Return the number of items."""
        return len(self._entries)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Iterate over the skipped entries, then over the items."""
        yield from self._skipped
        for number, entry in enumerate(self._entries):
            yield Item(entry.file, (number,), self._root / entry.file)

    def fetch(self, ref: ItemRef) -> Path:
        """Return the file of an item."""
        return self._root / self._entries[ref[0]].file

    def captions(self, ref: ItemRef) -> Captions:
        """Return the captions that were read when the folder was listed."""
        return self._entries[ref[0]].captions

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Return `label` if the folder has classes."""
        label = self._entries[ref[0]].label
        return {} if label is None else {"label": label}

    def values(self, field: str) -> Sequence[Any] | None:
        """Return the class indices for `label`."""
        return range(self._num_classes) if field == "label" and self._num_classes else None


def require_dir(folder: str, component: str) -> Path:
    """Return an existing folder as a path.

    Raises:
        ConfigError: there is no such folder; the message names the component.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{component}: no folder '{folder}'. Set dataset.folder to an existing folder.")
    return root


def list_folder(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None = None
) -> Iterator[FolderItem | SkippedItem]:
    """List the items of a folder and their captions in a fixed order, without opening the items.

    Captions come from a captions.jsonl ({"file": ..., "caption": ...}) if present, else from the .txt of the same name,
    else from the .json.

    Args:
        root: the folder; links out of it are skipped.
        suffixes: lower-case suffixes of items; a captions.jsonl names its own files.
        weights: sampling weight by caption source.
    """
    if (root / CAPTIONS_FILE).is_file():
        yield from _list_jsonl(root, weights)
        return
    for file in find_files(suffixes, root, root):
        reason = reject_reason(root, file)
        if reason:
            yield SkippedItem(file, reason)
            continue
        captions = _read_sidecar(root, Path(file), weights)
        yield captions if isinstance(captions, SkippedItem) else FolderItem(file, captions)


def list_classes(
    root: Path, suffixes: tuple[str, ...], captions: Mapping[str, Captions]
) -> Iterator[FolderItem | SkippedItem]:
    """List the items in the folder of each class; the class index is the position in `captions`."""
    for label, name in enumerate(captions):
        for file in find_files(suffixes, root, root / name):
            reason = reject_reason(root, file)
            yield SkippedItem(file, reason) if reason else FolderItem(file, captions[name], label)


def find_files(suffixes: tuple[str, ...], root: Path, under: Path) -> list[str]:
    """Return the files below a folder with one of the suffixes, as paths relative to `root`; links are not followed."""
    files: list[str] = []
    for folder, _, names in os.walk(under, followlinks=False):
        relative = Path(folder).relative_to(root)
        files += [(relative / name).as_posix() for name in names if name.lower().endswith(suffixes) and name[0] != "."]
    return sorted(files)


def reject_reason(root: Path, file: str) -> str:
    """Return why a file, by its path relative to a folder, must not be opened; empty if it may be."""
    path = Path(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or not _is_inside(root, root / path):
        return "leads outside the folder"
    if not (root / path).exists():
        return "missing"
    return "" if (root / path).is_file() else "not a plain file"


def _is_inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def _list_jsonl(root: Path, weights: Mapping[str, float] | None) -> Iterator[FolderItem | SkippedItem]:
    if not _is_inside(root, root / CAPTIONS_FILE):
        yield SkippedItem(CAPTIONS_FILE, "a link that leads outside the folder")
        return
    # bytes, since one line that is not UTF-8 should cost that line only
    with (root / CAPTIONS_FILE).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse_line(root, line, f"{CAPTIONS_FILE}:{number}", weights)


def _parse_line(
    root: Path, line: bytes, position: str, weights: Mapping[str, float] | None
) -> FolderItem | SkippedItem:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return SkippedItem(position, "not a line of JSON")
    if not isinstance(record, dict) or not isinstance(record.get("file"), str) or not record["file"]:
        return SkippedItem(position, 'has no "file"')
    file: str = record["file"]
    try:
        captions = read_record(record, weights)
    except UnusableError as error:
        return SkippedItem(file, str(error))
    reason = reject_reason(root, file)
    return SkippedItem(file, reason) if reason else FolderItem(Path(file).as_posix(), captions)


def _read_sidecar(root: Path, file: Path, weights: Mapping[str, float] | None) -> Captions | SkippedItem:
    """Read the captions of the .txt with the name of an item, or of the .json if there is no .txt."""
    text, record = file.with_suffix(".txt"), file.with_suffix(".json")
    sidecar = record if not (root / text).exists() and (root / record).exists() else text
    name = sidecar.as_posix()
    reason = reject_reason(root, name)
    if reason:
        return SkippedItem(name, f"no caption: {reason}")
    try:
        data = (root / sidecar).read_bytes()
        return read_lines(data, weights) if sidecar is text else read_json(data, weights)
    except UnusableError as error:
        return SkippedItem(name, str(error))
    except OSError as error:
        return SkippedItem(name, f"no caption: {error.strerror}")


class Shards:
    """Shard files of one folder, sorted by name; links out of the folder are skipped.

    Args:
        folder: the folder.
        pattern: glob pattern of the shards, relative to it.
        component: name of the data set, for messages.

    Raises:
        ConfigError: there is no such folder, or the pattern leads out of it.
    """

    def __init__(self, folder: str, pattern: str, component: str) -> None:
        self.root, self.pattern = require_dir(folder, component), pattern
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ConfigError(f"{component}: the pattern '{pattern}' leads outside the folder '{folder}'")
        matches = sorted(file.relative_to(self.root).as_posix() for file in self.root.glob(pattern))
        reasons = {name: reject_reason(self.root, name) for name in matches}
        self.names = [name for name in matches if not reasons[name]]
        self.skipped = [SkippedItem(name, reason) for name, reason in reasons.items() if reason]

    def path(self, shard: int) -> Path:
        """Return the file of a shard by its number."""
        return self.root / self.names[shard]

    def state(self) -> list[list[str | int]]:
        """Return name, bytes and modification time of each shard; the index is rebuilt when one changes."""
        stats = [(name, (self.root / name).stat()) for name in self.names]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def index_dir(self, folder: str | None) -> Path:
        """Return the folder of the index: the configured one, else `.lumina-index` in that of the shards."""
        return Path(folder) if folder else self.root / INDEX_DIR
