"""Items in tar files, as WebDataset packs them: a.xyz beside a.txt or a.json, found again by their offset."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lumina_core.data.folder import Shards
from lumina_core.data.source import MAX_CAPTION_BYTES, Captions, Item, ItemRef, SkippedItem, read_json, read_lines
from lumina_core.errors import UnusableError

MAX_ITEM_BYTES = 2**28
"""Of one item's file; a larger one is skipped, whatever its header says."""

CAPTION_READERS = (read_lines, read_json)
"""How the member that says the captions is read, by the last number of a place."""


class TarMember(NamedTuple):
    """A file inside a shard."""

    suffix: str
    offset: int
    size: int


class TarSource:
    """Places are (shard, offset and length of the item, offset and length of its caption, how that is read).

    Nothing is unpacked, so no name inside a shard is ever a path on this machine.

    Args:
        pattern: which files were taken for shards.
        suffixes: how members are called that are items: (".png", ...).
    """

    group_dims = 0

    def __init__(self, shards: Shards, pattern: str, suffixes: Sequence[str], weights: Mapping[str, float]) -> None:
        self.title = str(shards.root)
        self._suffixes = tuple(suffix[1:] for suffix in suffixes)
        self.advice = (
            f"Put uncompressed .tar shards there, with members like 000{suffixes[0]} and 000.txt (or 000.json) one "
            "after another"
        )
        self._shards, self._pattern, self._weights = shards, pattern, weights

    def count(self) -> int:
        """How many members are called like items."""
        samples = (sample for shard in range(len(self._shards.names)) for sample in self._samples(shard))
        return sum(not isinstance(sample, SkippedItem) for sample in samples)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Shard by shard, member by member; what is whole before a shard breaks off is used."""
        yield from self._shards.skipped
        for shard in range(len(self._shards.names)):
            try:
                with self._shards.path(shard).open("rb") as file:
                    for sample in self._samples(shard):
                        yield sample if isinstance(sample, SkippedItem) else self._make_item(shard, *sample, file)
            except OSError as error:
                yield SkippedItem(self._shards.names[shard], f"cannot be read: {error.strerror}")

    def fetch(self, ref: ItemRef) -> bytes:
        """Its bytes."""
        return self._read_bytes(ref[0], ref[1], ref[2])

    def captions(self, ref: ItemRef) -> Captions:
        """Read from the member beside it."""
        return CAPTION_READERS[ref[5]](self._read_bytes(ref[0], ref[3], ref[4]), self._weights)

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def values(self, field: str) -> None:
        """None: there are no further fields."""

    def index_dir(self) -> Path:
        """The folder."""
        return self._shards.root

    def settings(self) -> Mapping[str, Any]:
        """The pattern, and the weights, which decide what is without a caption."""
        return {"tar": self._pattern, "weights": dict(self._weights)}

    def state(self) -> Any:
        """That of the shards."""
        return self._shards.state()

    def _samples(self, shard: int) -> Iterator[tuple[str, list[TarMember]] | SkippedItem]:
        """(key, members) of each item: members of one key stand one after another."""
        key, members = "", list[TarMember]()
        for entry in _iter_members(self._shards.path(shard), self._shards.names[shard]):
            if isinstance(entry, SkippedItem):
                yield entry
                continue
            name, member = entry
            if name != key:
                yield from self._yield_if_item(key, members)
                key, members = name, []
            members.append(member)
        yield from self._yield_if_item(key, members)

    def _make_item(self, shard: int, key: str, members: list[TarMember], file: Any) -> Item | SkippedItem:
        item = self._item_member(members)
        name = f"{self._shards.names[shard]}/{key}.{item.suffix}"
        if item.size > MAX_ITEM_BYTES:
            return SkippedItem(name, f"too large: {item.size} bytes")
        try:
            ref = (shard, item.offset, item.size, *self._find_captions(members, file))
            return Item(name, ref, _read_at(file, item.offset, item.size))
        except UnusableError as error:
            return SkippedItem(name, str(error))

    def _find_captions(self, members: list[TarMember], file: Any) -> ItemRef:
        """Where the captions are and how they are read: the .json where it says some, else the .txt."""
        last_error = UnusableError("no caption: no .txt or .json beside it")
        for reader_index, suffix in ((1, "json"), (0, "txt")):
            for member in (one for one in members if one.suffix == suffix):
                try:
                    CAPTION_READERS[reader_index](
                        _read_at(file, member.offset, min(member.size, MAX_CAPTION_BYTES + 1)), self._weights
                    )
                    return member.offset, member.size, reader_index
                except UnusableError as error:
                    last_error = error
        raise last_error

    def _yield_if_item(self, key: str, members: list[TarMember]) -> Iterator[tuple[str, list[TarMember]]]:
        if any(member.suffix.endswith(self._suffixes) for member in members):
            yield key, members

    def _item_member(self, members: list[TarMember]) -> TarMember:
        """The member that is the item: plainly `.jpg`, or else the first that ends so, such as `.small.jpg`."""
        plain = [member for member in members if member.suffix in self._suffixes]
        return (plain or [member for member in members if member.suffix.endswith(self._suffixes)])[0]

    def _read_bytes(self, shard: int, offset: int, size: int) -> bytes:
        if offset < 0 or not 0 <= size <= MAX_ITEM_BYTES:
            raise UnusableError("the index says where nothing can be; remove it, and it is made anew")
        try:
            with self._shards.path(shard).open("rb") as file:
                return _read_at(file, offset, size)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error


def _iter_members(path: Path, name: str) -> Iterator[tuple[str, TarMember] | SkippedItem]:
    """Key and place of every plain file in a shard; what breaks the shard off is told last."""
    count = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not member.isreg() or member.issparse():
                    continue
                inner_path = PurePosixPath(member.name)
                if inner_path.is_absolute() or ".." in inner_path.parts:
                    yield SkippedItem(f"{name}/{member.name}"[:200], "leads outside the shard")
                    continue
                count += 1
                stem, _, suffix = inner_path.name.partition(".")
                yield (
                    str(inner_path.with_name(stem or inner_path.name)),
                    TarMember(suffix.lower(), member.offset_data, member.size),
                )
            if not _has_end_marker(path, tar.offset):
                yield SkippedItem(name, f"cut off after {count} members")
    except Exception as error:  # a hostile header raises whatever the reader stumbled over
        reason = " ".join(str(error).split())[:120]
        hint = "; a compressed shard must be unpacked first (gunzip)" if not count and _is_compressed(path) else ""
        yield SkippedItem(name, f"damaged or cut off after {count} members: {reason}{hint}")


def _has_end_marker(path: Path, offset: int) -> bool:
    # a whole archive ends with a block of zeros; one that was cut between two members has none
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        return len(block) == tarfile.BLOCKSIZE and not any(block)


def _is_compressed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    except OSError:
        return False


def _read_at(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(size)
    if len(data) < size:
        raise UnusableError("cut off: the shard ends before it does")
    return data
