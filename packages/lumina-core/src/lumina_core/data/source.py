"""Sources of items with captions: the base class, and files of one folder."""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lumina_core.data.captions import Captions, iter_json_rows, read_json, read_lines, read_record
from lumina_core.errors import ConfigError, UnusableError
from lumina_core.io import describe_content, user_path

CAPTIONS_FILE = "captions.jsonl"
CAPTION_SUFFIXES = (".txt", ".caption", ".json")
"""Suffixes of caption files, in the order of preference."""
FILE_FIELDS = ("file", "file_name", "path")
"""Fields of a row of captions.jsonl that name the file; the first present one counts."""
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_SYSTEM_NAMES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
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
    """Return an existing folder as a path; a leading `~` is the home.

    Raises:
        ConfigError: there is no such folder, or it cannot be read; the message names the component.
    """
    root = user_path(folder)
    try:
        if not root.is_dir():
            raise ConfigError(f"{component}: no folder '{folder}'. Set dataset.folder to an existing folder.")
        next(root.iterdir(), None)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{component}: cannot read the folder '{folder}' ({reason}).") from error
    return root


class FolderListing:
    """Names of the files below a folder; hidden names (with a first dot) and their content are left out.

    Attributes:
        files: paths relative to the folder, sorted.
        skipped: folders that cannot be read, and links to folders, which are not followed.
    """

    def __init__(self, root: Path, under: Path | None = None) -> None:
        self.root = root
        self.files: list[str] = []
        self.skipped: list[SkippedItem] = []
        self._by_key: dict[str, list[str]] | None = None
        for folder, folders, names in os.walk(under or root, onerror=self._skip_folder, followlinks=False):
            relative = Path(folder).relative_to(root)
            # os.walk descends into what this list still holds
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    path = (relative / name).as_posix()
                    reason = "a link to a folder, which is not followed; use its target, or copy it"
                    self.skipped.append(SkippedItem(path, reason))
            self.files += [(relative / name).as_posix() for name in names if not is_hidden(name)]
        self.files.sort()

    def find(self, path: str) -> str | None:
        """Return the file with a name, in any Unicode form and with any capitals in its suffix; None: there is none."""
        for candidate in self._similar(path):
            stems = [unicodedata.normalize("NFC", str(PurePosixPath(p).with_suffix(""))) for p in (path, candidate)]
            if stems[0] == stems[1]:
                return candidate
        return None

    def suggest(self, path: str) -> str:
        """Return the end of a message with a file whose name differs in capitals only; empty: there is none."""
        return next((f"; did you mean {candidate}?" for candidate in self._similar(path)), "")

    def _similar(self, path: str) -> list[str]:
        if self._by_key is None:
            self._by_key = {}
            for file in self.files:
                self._by_key.setdefault(_name_key(file), []).append(file)
        found = self._by_key.get(_name_key(path), [])
        return [path, *found] if path in found else found

    def _skip_folder(self, error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        self.skipped.append(SkippedItem(name, f"the folder cannot be read: {error.strerror}"))


def _name_key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def is_hidden(path: str) -> bool:
    """Return whether a relative path has a name that begins with a dot (besides . and ..) or is of an archive's system.

    Desktops and editors leave copies of data under such names: .thumbnails, .Trash-1000, ._a.png, @eaDir.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return any((part[0] == "." and part not in (".", "..")) or part in _SYSTEM_NAMES for part in parts)


def list_folder(
    root: Path, suffixes: tuple[str, ...], weights: Mapping[str, float] | None = None, unread: tuple[str, ...] = ()
) -> Iterator[FolderItem | SkippedItem]:
    """List the items of a folder and their captions in a fixed order, without opening the items.

    Captions come from a captions.jsonl ({"file": ..., "caption": ...}) if present, else from the .txt or .caption of
    the same name, else from the .json. Names are equal in any Unicode form, and with any capitals in the suffix.
    Hidden files and folders (with a first dot) are no data.

    Args:
        root: the folder; links out of it are skipped.
        suffixes: lower-case suffixes of items; a captions.jsonl names its own files.
        weights: sampling weight by caption source.
        unread: lower-case suffixes of files of the modality that cannot be read; they are reported as skipped.
    """
    listing = FolderListing(root)
    yield from listing.skipped
    if (root / CAPTIONS_FILE).is_file():
        yield from _list_jsonl(root, listing, suffixes, weights)
        return
    sidecars = _Sidecars(listing)
    with_captions: set[str] = set()
    others: list[str] = []
    for file in listing.files:
        if not file.lower().endswith(suffixes):
            others.append(file)
            continue
        with_captions.add(_stem_key(file))
        reason = reject_reason(root, file)
        if reason:
            yield SkippedItem(file, reason)
            continue
        captions = _read_sidecar(root, file, sidecars, weights)
        yield captions if isinstance(captions, SkippedItem) else FolderItem(file, captions)
    for file in others:
        suffix = PurePosixPath(file).suffix.lower()
        is_unread = suffix not in CAPTION_SUFFIXES and _stem_key(file) not in with_captions and sidecars.find(file)
        if suffix in unread or is_unread:
            yield _unread_item(file)


def list_classes(
    root: Path, suffixes: tuple[str, ...], captions: Mapping[str, Captions], unread: tuple[str, ...] = ()
) -> Iterator[FolderItem | SkippedItem]:
    """List the items in the folder of each class; the class index is the position in `captions`.

    Args:
        root: the folder of the classes.
        suffixes: lower-case suffixes of items.
        captions: captions by the name of the folder of a class.
        unread: lower-case suffixes of files of the modality that cannot be read; they are reported as skipped.
    """
    for label, name in enumerate(captions):
        listing = FolderListing(root, root / name)
        yield from listing.skipped
        if not any(file.lower().endswith(suffixes) for file in listing.files):
            yield SkippedItem(name, "a class without items")
        for file in listing.files:
            if file.lower().endswith(suffixes):
                reason = reject_reason(root, file)
                yield SkippedItem(file, reason) if reason else FolderItem(file, captions[name], label)
            elif file.lower().endswith(unread):
                yield _unread_item(file)


def list_class_names(root: Path, suffixes: tuple[str, ...]) -> tuple[list[str], list[SkippedItem]]:
    """Return the names of the folders of classes, sorted, and what lies next to them without being used."""
    names: list[str] = []
    skipped: list[SkippedItem] = []
    for path in sorted(root.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_symlink() and path.is_dir():
            skipped.append(SkippedItem(path.name, "a link to a folder, which is not followed; use its target"))
        elif path.is_dir():
            names.append(path.name)
        elif path.name.lower().endswith(suffixes):
            skipped.append(SkippedItem(path.name, "in no folder of a class"))
    return names, skipped


def _unread_item(file: str) -> SkippedItem:
    suffix = PurePosixPath(file).suffix or "no suffix"
    return SkippedItem(file, f"files of this format ({suffix}) are not read; convert it")


def unnamed_items(listing: FolderListing, suffixes: tuple[str, ...], named: set[str], table: str) -> list[SkippedItem]:
    """Return an entry about the items of a folder that a table does not name; [] if it names all."""
    rest = [file for file in listing.files if file.lower().endswith(suffixes) and file not in named]
    if not rest:
        return []
    listed = ", ".join(rest[:3]) + (" ..." if len(rest) > 3 else "")
    return [SkippedItem(table, f"does not name {len(rest)} of the files that lie there: {listed}")]


def resolve_file(listing: FolderListing, name: str) -> tuple[str, str]:
    """Find a file that a table names: relative to the folder or absolute, with / or \\, in any Unicode form.

    Returns:
        Its path relative to the folder, and why it must not be opened; empty if it may be.
    """
    root, path = listing.root, Path(name)
    if path.is_absolute():
        bases = [base for base in (root.absolute(), root.resolve()) if path.is_relative_to(base)]
        if not bases:
            return name, "leads outside the folder"
        path = path.relative_to(bases[0])
    file = path.as_posix()
    reason = reject_reason(root, file)
    if reason != "missing":
        return file, reason
    if "\\" in file:
        slashed = PurePosixPath(file.replace("\\", "/")).as_posix()
        reason = reject_reason(root, slashed)
        if reason != "missing":
            return slashed, reason
        file = slashed
    found = listing.find(file)
    if found is not None:
        return found, reject_reason(root, found)
    return file, f"missing{listing.suggest(file)}"


def reject_reason(root: Path, file: str) -> str:
    """Return why a file, by its path relative to a folder, must not be opened; empty if it may be."""
    path = Path(file)
    try:
        if path.is_absolute() or ".." in path.parts or "\0" in file or not _is_inside(root, root / path):
            return "leads outside the folder"
        if not (root / path).exists():
            return "missing"
        return "" if (root / path).is_file() else "not a plain file"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return f"cannot be read: {error.strerror}"
    except ValueError:  # a half of a character
        return "missing"


def _is_inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def _list_jsonl(
    root: Path, listing: FolderListing, suffixes: tuple[str, ...], weights: Mapping[str, float] | None
) -> Iterator[FolderItem | SkippedItem]:
    if not _is_inside(root, root / CAPTIONS_FILE):
        yield SkippedItem(CAPTIONS_FILE, "a link that leads outside the folder")
        return
    num_rows = 0
    named: set[str] = set()
    for position, record in iter_json_rows(root / CAPTIONS_FILE):
        num_rows += 1
        item = _parse_record(listing, record, position, weights)
        named.add(item.file if isinstance(item, FolderItem) else item.name)
        yield item
    if not num_rows:
        yield SkippedItem(CAPTIONS_FILE, "empty; delete it to use the captions beside the files")
    yield from unnamed_items(listing, suffixes, named, CAPTIONS_FILE)


def _parse_record(
    listing: FolderListing, record: Any, position: str, weights: Mapping[str, float] | None
) -> FolderItem | SkippedItem:
    if not isinstance(record, dict):
        return SkippedItem(position, "not a line of JSON" if record is None else "not a JSON object")
    name = next((record[key] for key in FILE_FIELDS if isinstance(record.get(key), str) and record[key]), None)
    if name is None:
        return SkippedItem(position, 'has no "file"')
    file, reason = resolve_file(listing, name)
    try:
        captions = read_record(record, weights)
    except UnusableError as error:
        return SkippedItem(file, str(error))
    return SkippedItem(file, reason) if reason else FolderItem(file, captions)


def _stem_key(file: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(file).with_suffix("")))


class _Sidecars:
    """Caption files of a folder by the name that they share with an item."""

    def __init__(self, listing: FolderListing) -> None:
        self._by_stem: dict[str, dict[str, str]] = {}
        self._by_casefold: dict[str, str] = {}
        for file in listing.files:
            suffix = PurePosixPath(file).suffix.lower()
            if suffix in CAPTION_SUFFIXES:
                found = self._by_stem.setdefault(_stem_key(file), {})
                # a.txt rather than a.TXT, where both exist
                if suffix not in found or file.endswith(suffix):
                    found[suffix] = file
                self._by_casefold.setdefault(_stem_key(file).casefold(), file)

    def find(self, file: str) -> str | None:
        """Return the caption file of an item."""
        found = self._by_stem.get(_stem_key(file), {})
        return next((found[suffix] for suffix in CAPTION_SUFFIXES if suffix in found), None)

    def suggest(self, file: str) -> str:
        """Return the end of a message with a caption file of a similar name: other capitals, or a.png.txt."""
        similar = self._by_casefold.get(_stem_key(file).casefold())
        found = self._by_stem.get(unicodedata.normalize("NFC", file), {})
        similar = similar or next(iter(found.values()), None)
        return f"; rename {similar}" if similar else ""


def _read_sidecar(
    root: Path, file: str, sidecars: _Sidecars, weights: Mapping[str, float] | None
) -> Captions | SkippedItem:
    """Read the captions of the .txt or .caption with the name of an item, or of the .json if there is none."""
    name = sidecars.find(file)
    if name is None:
        expected = PurePosixPath(file).with_suffix(".txt").as_posix()
        return SkippedItem(expected, f"no caption: missing{sidecars.suggest(file)}")
    reason = reject_reason(root, name)
    if reason:
        return SkippedItem(name, f"no caption: {reason}")
    try:
        data = (root / name).read_bytes()
        return read_json(data, weights) if name.lower().endswith(".json") else read_lines(data, weights)
    except UnusableError as error:
        return SkippedItem(name, f"{error}{_content_hint(data)}")
    except OSError as error:
        return SkippedItem(name, f"no caption: {error.strerror}")


def _content_hint(data: bytes) -> str:
    content = describe_content(data)
    return f"; it is {content}" if content else ""


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
        try:
            found = sorted(file.relative_to(self.root).as_posix() for file in self.root.glob(pattern))
        except (OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"{component}: shards: got the pattern '{pattern}', which is not usable ({error})."
            ) from error
        reasons = {name: reject_reason(self.root, name) for name in found if not is_hidden(name)}
        self.names = [name for name in reasons if not reasons[name]]
        self.skipped = [SkippedItem(name, reason) for name, reason in reasons.items() if reason]
        listing = FolderListing(self.root)
        self.skipped += listing.skipped
        suffix = PurePosixPath(pattern).suffix
        for file in listing.files:
            is_shard = suffix and f"{suffix}." in PurePosixPath(file).name.lower()
            if file not in reasons and (is_shard or file.lower().endswith(COMPRESSED_SUFFIXES)):
                self.skipped.append(SkippedItem(file, f"not read: the pattern is {pattern}; unpack a compressed shard"))

    def path(self, shard: int) -> Path:
        """Return the file of a shard by its number."""
        return self.root / self.names[shard]

    def state(self) -> list[list[str | int]]:
        """Return name, bytes and modification time of each shard, and skipped names; a new index if one changes."""
        stats = [(name, (self.root / name).stat()) for name in self.names]
        shards: list[list[str | int]] = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return shards + [[name, reason] for name, reason in self.skipped]

    def index_dir(self, folder: str | None) -> Path:
        """Return the folder of the index: the configured one, else `.lumina-index` in that of the shards."""
        return user_path(folder) if folder else self.root / INDEX_DIR
