"""Items in tar files, as WebDataset packs them: a.xyz beside a.txt or a.json, found again by their offset."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lumina_core.sources.captions import MOST, Captions, read_json, read_lines
from lumina_core.sources.shards import Shards
from lumina_core.sources.source import Found, Place, Skipped
from lumina_core.sources.unusable import UnusableError

MOST_BYTES = 2**28
"""Of one item's file; a larger one is skipped, whatever its header says."""

READERS = (read_lines, read_json)
"""How the member that says the captions is read, by the last number of a place."""


class Member(NamedTuple):
    """A file inside a shard."""

    ending: str
    at: int
    size: int


class TarSource:
    """Places are (shard, offset and length of the item, offset and length of its caption, how that is read).

    Nothing is unpacked, so no name inside a shard is ever a path on this machine.

    Args:
        pattern: which files were taken for shards.
        suffixes: how members are called that are items: (".png", ...).
    """

    together = 0

    def __init__(self, shards: Shards, pattern: str, suffixes: Sequence[str], weights: Mapping[str, float]) -> None:
        self.title = str(shards.root)
        self._endings = tuple(suffix[1:] for suffix in suffixes)
        self.advice = (
            f"Put uncompressed .tar shards there, with members like 000{suffixes[0]} and 000.txt (or 000.json) one "
            "after another"
        )
        self._shards, self._pattern, self._weights = shards, pattern, weights

    def count(self) -> int:
        """How many members are called like items."""
        samples = (found for shard in range(len(self._shards.names)) for found in self._samples(shard))
        return sum(not isinstance(found, Skipped) for found in samples)

    def scan(self) -> Iterator[Found | Skipped]:
        """Shard by shard, member by member; what is whole before a shard breaks off is used."""
        yield from self._shards.skipped
        for shard in range(len(self._shards.names)):
            try:
                with self._shards.path(shard).open("rb") as file:
                    for sample in self._samples(shard):
                        yield sample if isinstance(sample, Skipped) else self._found(shard, *sample, file)
            except OSError as error:
                yield Skipped(self._shards.names[shard], f"cannot be read: {error.strerror}")

    def held(self, place: Place) -> bytes:
        """Its bytes."""
        return self._bytes(place[0], place[1], place[2])

    def captions(self, place: Place) -> Captions:
        """Read from the member beside it."""
        return READERS[place[5]](self._bytes(place[0], place[3], place[4]), self._weights)

    def more(self, place: Place) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def values(self, field: str) -> None:
        """None: there are no further fields."""

    def home(self) -> Path:
        """The folder."""
        return self._shards.root

    def settings(self) -> Mapping[str, Any]:
        """The pattern, and the weights, which decide what is without a caption."""
        return {"tar": self._pattern, "weights": dict(self._weights)}

    def state(self) -> Any:
        """That of the shards."""
        return self._shards.state()

    def _samples(self, shard: int) -> Iterator[tuple[str, list[Member]] | Skipped]:
        """(key, members) of each item: members of one key stand one after another."""
        key, members = "", list[Member]()
        for found in _members(self._shards.path(shard), self._shards.names[shard]):
            if isinstance(found, Skipped):
                yield found
                continue
            name, member = found
            if name != key:
                yield from self._whole(key, members)
                key, members = name, []
            members.append(member)
        yield from self._whole(key, members)

    def _found(self, shard: int, key: str, members: list[Member], file: Any) -> Found | Skipped:
        item = self._item(members)
        name = f"{self._shards.names[shard]}/{key}.{item.ending}"
        if item.size > MOST_BYTES:
            return Skipped(name, f"too large: {item.size} bytes")
        try:
            place = (shard, item.at, item.size, *self._said(members, file))
            return Found(name, place, _read(file, item.at, item.size))
        except UnusableError as error:
            return Skipped(name, str(error))

    def _said(self, members: list[Member], file: Any) -> Place:
        """Where the captions are and how they are read: the .json where it says some, else the .txt."""
        failed = UnusableError("no caption: no .txt or .json beside it")
        for kind, ending in ((1, "json"), (0, "txt")):
            for member in (one for one in members if one.ending == ending):
                try:
                    READERS[kind](_read(file, member.at, min(member.size, MOST + 1)), self._weights)
                    return member.at, member.size, kind
                except UnusableError as error:
                    failed = error
        raise failed

    def _whole(self, key: str, members: list[Member]) -> Iterator[tuple[str, list[Member]]]:
        if any(member.ending.endswith(self._endings) for member in members):
            yield key, members

    def _item(self, members: list[Member]) -> Member:
        """The member that is the item: plainly `.jpg`, or else the first that ends so, such as `.small.jpg`."""
        plain = [member for member in members if member.ending in self._endings]
        return (plain or [member for member in members if member.ending.endswith(self._endings)])[0]

    def _bytes(self, shard: int, at: int, size: int) -> bytes:
        if at < 0 or not 0 <= size <= MOST_BYTES:
            raise UnusableError("the index says where nothing can be; remove it, and it is made anew")
        try:
            with self._shards.path(shard).open("rb") as file:
                return _read(file, at, size)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error


def _members(path: Path, name: str) -> Iterator[tuple[str, Member] | Skipped]:
    """Key and place of every plain file in a shard; what breaks the shard off is told last."""
    seen = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not member.isreg() or member.issparse():
                    continue
                inside = PurePosixPath(member.name)
                if inside.is_absolute() or ".." in inside.parts:
                    yield Skipped(f"{name}/{member.name}"[:200], "leads outside the shard")
                    continue
                seen += 1
                stem, _, ending = inside.name.partition(".")
                yield (
                    str(inside.with_name(stem or inside.name)),
                    Member(ending.lower(), member.offset_data, member.size),
                )
            if not _ends(path, tar.offset):
                yield Skipped(name, f"cut off after {seen} members")
    except Exception as error:  # a hostile header raises whatever the reader stumbled over
        reason = " ".join(str(error).split())[:120]
        hint = "; a compressed shard must be unpacked first (gunzip)" if not seen and _compressed(path) else ""
        yield Skipped(name, f"damaged or cut off after {seen} members: {reason}{hint}")


def _ends(path: Path, at: int) -> bool:
    # a whole archive ends with a block of zeros; one that was cut between two members has none
    with path.open("rb") as file:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
        return len(block) == tarfile.BLOCKSIZE and not any(block)


def _compressed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    except OSError:
        return False


def _read(file: Any, at: int, size: int) -> bytes:
    file.seek(at)
    data: bytes = file.read(size)
    if len(data) < size:
        raise UnusableError("cut off: the shard ends before it does")
    return data
