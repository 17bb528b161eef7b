"""Items in tar shards as WebDataset packs them: a.xyz with a.txt or a.json, read at random by their offsets."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from lumina_core.data.captions import MAX_CAPTION_BYTES, Captions, read_json, read_lines
from lumina_core.data.source import Item, ItemRef, Shards, SkippedItem, Source
from lumina_core.errors import UnusableError

MAX_ITEM_BYTES = 2**28
"""Largest size in bytes of a member; larger ones are skipped."""

CAPTION_READERS = (read_lines, read_json)
"""Readers of caption members; the last number of a reference is an index of them."""


class TarMember(NamedTuple):
    """File inside a shard."""

    suffix: str
    offset: int
    size: int


class TarSource(Source):
    """Items of uncompressed tar shards.

    A reference is (shard, offset and size of the item, offset and size of its captions, caption reader). Nothing is
    unpacked, so a member's name is never used as a path.

    Args:
        shards: the shard files.
        suffixes: suffixes of the members that are items: (".png", ...).
        weights: sampling weight by caption source.
    """

    def __init__(self, shards: Shards, suffixes: Sequence[str], weights: Mapping[str, float]) -> None:
        self.title = str(shards.root)
        self.advice = (
            f"Put uncompressed .tar shards there, with members like 000{suffixes[0]} and 000.txt (or 000.json) one "
            "after another"
        )
        self._shards, self._weights = shards, weights
        self._suffixes = tuple(suffix[1:] for suffix in suffixes)

    def count(self) -> int:
        """Return the number of items, by reading the headers of all shards."""
        samples = (sample for shard in range(len(self._shards.names)) for sample in self._samples(shard))
        return sum(not isinstance(sample, SkippedItem) for sample in samples)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Iterate shard by shard; complete members before the damaged part of a shard are used."""
        yield from self._shards.skipped
        for shard, name in enumerate(self._shards.names):
            try:
                with self._shards.path(shard).open("rb") as file:
                    for sample in self._samples(shard):
                        yield sample if isinstance(sample, SkippedItem) else self._make_item(shard, *sample, file)
            except OSError as error:
                yield SkippedItem(name, f"cannot be read: {error.strerror}")

    def fetch(self, ref: ItemRef) -> bytes:
        """Return the bytes of an item."""
        return self._read_bytes(ref[0], ref[1], ref[2])

    def captions(self, ref: ItemRef) -> Captions:
        """Read the captions of an item from their member."""
        return CAPTION_READERS[ref[5]](self._read_bytes(ref[0], ref[3], ref[4]), self._weights)

    def settings(self) -> Mapping[str, Any]:
        """Return the pattern, and the weights, which decide which items have no caption."""
        return {"tar": self._shards.pattern, "weights": dict(self._weights)}

    def state(self) -> Any:
        """Return the state of the shards."""
        return self._shards.state()

    def _samples(self, shard: int) -> Iterator[tuple[str, list[TarMember]] | SkippedItem]:
        """Iterate over (key, members) of each item: consecutive members with one key."""
        key, members = "", list[TarMember]()
        for entry in _iter_members(self._shards.path(shard), self._shards.names[shard]):
            if isinstance(entry, SkippedItem):
                yield entry
                continue
            name, member = entry
            if name != key:
                if self._item_member(members):
                    yield key, members
                key, members = name, []
            members.append(member)
        if self._item_member(members):
            yield key, members

    def _item_member(self, members: list[TarMember]) -> TarMember | None:
        """Return the member that is the item: `.jpg` itself, else the first that ends with it, such as `.small.jpg`."""
        exact = [member for member in members if member.suffix in self._suffixes]
        ending = [member for member in members if member.suffix.endswith(self._suffixes)]
        return next(iter([*exact, *ending]), None)

    def _make_item(self, shard: int, key: str, members: list[TarMember], file: BinaryIO) -> Item | SkippedItem:
        item = self._item_member(members)
        assert item is not None
        name = f"{self._shards.names[shard]}/{key}.{item.suffix}"
        if item.size > MAX_ITEM_BYTES:
            return SkippedItem(name, f"too large: {item.size} bytes")
        try:
            ref = (shard, item.offset, item.size, *self._find_captions(members, file))
            return Item(name, ref, _read_at(file, item.offset, item.size))
        except UnusableError as error:
            return SkippedItem(name, str(error))

    def _find_captions(self, members: list[TarMember], file: BinaryIO) -> ItemRef:
        """Return offset, size and reader of the captions: those of the .json if it has any, else of the .txt."""
        reason = UnusableError("no caption: no .txt or .json with its name")
        for reader, suffix in ((1, "json"), (0, "txt")):
            for member in members:
                if member.suffix != suffix:
                    continue
                try:
                    data = _read_at(file, member.offset, min(member.size, MAX_CAPTION_BYTES + 1))
                    CAPTION_READERS[reader](data, self._weights)
                    return member.offset, member.size, reader
                except UnusableError as error:
                    reason = error
        raise reason

    def _read_bytes(self, shard: int, offset: int, size: int) -> bytes:
        if offset < 0 or not 0 <= size <= MAX_ITEM_BYTES:
            raise UnusableError("the index holds an impossible offset or size. Delete the index; it is rebuilt")
        try:
            with self._shards.path(shard).open("rb") as file:
                return _read_at(file, offset, size)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error


def _iter_members(path: Path, name: str) -> Iterator[tuple[str, TarMember] | SkippedItem]:
    """Iterate over key and member of every plain file in a shard; damage is reported last."""
    count = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all headers in memory
                if not member.isreg() or member.issparse():
                    continue
                inner_path = PurePosixPath(member.name)
                if inner_path.is_absolute() or ".." in inner_path.parts:
                    yield SkippedItem(f"{name}/{member.name}"[:200], "leads outside the shard")
                    continue
                count += 1
                stem, _, suffix = inner_path.name.partition(".")
                key = str(inner_path.with_name(stem or inner_path.name))
                yield key, TarMember(suffix.lower(), member.offset_data, member.size)
            if not _has_end_marker(path, tar.offset):
                yield SkippedItem(name, f"cut off after {count} members")
    except Exception as error:  # a hostile header raises anything
        reason = " ".join(str(error).split())[:120]
        hint = "; a compressed shard must be unpacked first (gunzip)" if not count and _is_compressed(path) else ""
        yield SkippedItem(name, f"damaged or cut off after {count} members: {reason}{hint}")


def _has_end_marker(path: Path, offset: int) -> bool:
    # a complete archive ends with a block of zeros; one that was cut between two members does not
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


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise UnusableError("cut off: the shard ends before it does")
    return data
