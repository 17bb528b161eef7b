"""Items in tar shards as WebDataset packs them: a.xyz with a.txt or a.json, read at random by their offsets."""

from __future__ import annotations

import posixpath
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from lumina_core.data.captions import MAX_CAPTION_BYTES, Captions, read_json, read_lines
from lumina_core.data.source import Item, ItemRef, Shards, SkippedItem, Source, is_hidden
from lumina_core.errors import UnusableError
from lumina_core.io import describe_content

MAX_ITEM_BYTES = 2**28
"""Largest size in bytes of a member; larger ones are skipped."""

CAPTION_READERS = (read_lines, read_json)
"""Readers of caption members; the last number of a reference is an index of them."""
_CHUNK_BYTES = 2048 * tarfile.BLOCKSIZE


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
        unread: suffixes of members of the modality that cannot be read; they are reported as skipped.
    """

    caption_members: tuple[tuple[int, str], ...] = ((1, "json"), (0, "txt"), (0, "caption"))
    """Reader and suffix of caption members, in the order of preference."""
    no_caption = "no caption: no .txt or .json with its name"
    """Reason why an item without a caption is skipped."""

    def __init__(
        self, shards: Shards, suffixes: Sequence[str], weights: Mapping[str, float], unread: Sequence[str] = ()
    ) -> None:
        self.title = str(shards.root)
        self.advice = (
            f"Put uncompressed .tar shards there, with members like 000{suffixes[0]} and 000.txt (or 000.json) one "
            "after another"
        )
        self._shards, self._weights = shards, weights
        self._suffixes = tuple(suffix[1:] for suffix in suffixes)
        self._unread = {suffix[1:] for suffix in unread}

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
                    yield from self._scan_shard(shard, file)
            except OSError as error:
                yield SkippedItem(name, f"cannot be read: {error.strerror}")

    def _scan_shard(self, shard: int, file: BinaryIO) -> Iterator[Item | SkippedItem]:
        """Iterate over the items of a shard; those whose captions stand elsewhere in it come last, as skipped."""
        without, caption_keys = list[tuple[str, str]](), set[str]()
        for sample in self._samples(shard, caption_keys):
            if isinstance(sample, SkippedItem):
                yield sample
                continue
            item = self._make_item(shard, *sample, file)
            if isinstance(item, SkippedItem) and item.reason == self.no_caption:
                without.append((sample[0], item.name))
            else:
                yield item
        for key, name in without:
            hint = "; it stands elsewhere in the shard: pack the shard sorted by name" if key in caption_keys else ""
            yield SkippedItem(name, self.no_caption + hint)

    def fetch(self, ref: ItemRef) -> bytes:
        """Return the bytes of an item."""
        return self._read_bytes(ref[0], ref[1], ref[2])

    def captions(self, ref: ItemRef) -> Captions:
        """Read the captions of an item from their member."""
        return CAPTION_READERS[ref[5]](self._read_bytes(ref[0], ref[3], ref[4]), self._weights)

    def settings(self) -> Mapping[str, Any]:
        """Return the pattern, and the weights, which decide which items have no caption."""
        settings = {"tar": self._shards.pattern, "weights": dict(self._weights)}
        is_default = self.caption_members == TarSource.caption_members
        return settings if is_default else {**settings, "captions": [suffix for _, suffix in self.caption_members]}

    def state(self) -> Any:
        """Return the state of the shards."""
        return self._shards.state()

    def _samples(
        self, shard: int, caption_keys: set[str] | None = None
    ) -> Iterator[tuple[str, list[TarMember]] | SkippedItem]:
        """Iterate over (key, members) of each item: consecutive members with one key, of which one is the item.

        A key ends at the first dot of a name. Where it has several items with captions of their own (at_0.5.png,
        at_0.5.txt, at_0.75.png, at_0.75.txt), each is an item.

        Args:
            shard: number of the shard.
            caption_keys: gets the keys of all captions.
        """
        key, members = "", list[TarMember]()
        for entry in _iter_members(self._shards.path(shard), self._shards.names[shard]):
            if isinstance(entry, SkippedItem):
                yield entry
                continue
            name, member = entry
            if name != key:
                yield from self._split_sample(shard, key, members)
                key, members = name, []
            members.append(member)
            if caption_keys is not None and any(member.suffix == suffix for _, suffix in self.caption_members):
                caption_keys.add(name)
        yield from self._split_sample(shard, key, members)

    def _split_sample(
        self, shard: int, key: str, members: list[TarMember]
    ) -> Iterator[tuple[str, list[TarMember]] | SkippedItem]:
        items = [member for member in members if member.suffix.endswith(self._suffixes)]
        stems = {member.suffix.rpartition(".")[0] for member in items}
        with_captions = {
            stem
            for stem in stems - {""}
            if any(member.suffix == f"{stem}.{suffix}" for member in members for _, suffix in self.caption_members)
        }
        for stem in sorted(with_captions):
            own = [member for member in members if member.suffix.startswith(f"{stem}.")]
            yield f"{key}.{stem}", [member._replace(suffix=member.suffix.removeprefix(f"{stem}.")) for member in own]
        rest = [member for member in members if member.suffix.rpartition(".")[0] not in with_captions]
        if self._item_member(rest):
            yield key, rest
            if all(member.suffix not in self._suffixes for member in rest):
                for member in [m for m in rest if m.suffix.endswith(self._suffixes)][1:]:
                    name = f"{self._shards.names[shard]}/{key}.{member.suffix}"
                    yield SkippedItem(name, f"a further file of '{key}': a name ends at its first dot")
        elif not with_captions and any(member.suffix.rpartition(".")[2] in self._unread for member in rest):
            member = next(member for member in rest if member.suffix.rpartition(".")[2] in self._unread)
            name = f"{self._shards.names[shard]}/{key}.{member.suffix}"
            yield SkippedItem(name, f"files of this format (.{member.suffix}) are not read; convert it")

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
        reason = UnusableError(self.no_caption)
        for reader, suffix in self.caption_members:
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
    """Iterate over key and member of every plain file in a shard; damage is reported last.

    Archives one behind the other in one file, as `cat` makes them, are read like one.
    """
    count = 0
    start: int | None = 0
    try:
        while start is not None:
            with path.open("rb") as file:
                file.seek(start)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for entry in _iter_archive(tar, name):
                        count += not isinstance(entry, SkippedItem)
                        yield entry
                    end = tar.offset
            if not _has_end_marker(path, end):
                yield SkippedItem(name, f"cut off after {count} members")
                return
            next_start = _next_archive(path, end)
            if next_start is not None and not _is_header(path, next_start):
                rest = path.stat().st_size - next_start
                yield SkippedItem(name, f"{rest} bytes behind the end of the archive are no archive, and not read")
                return
            start = next_start
    except Exception as error:  # a hostile header raises anything
        reason = " ".join(str(error).split())[:120]
        hint = "; a compressed shard must be unpacked first (gunzip)" if not count and _is_compressed(path) else ""
        content = describe_content(path) if not count and not hint else ""
        hint = f"; it is {content}" if content else hint
        yield SkippedItem(name, f"damaged or cut off after {count} members: {reason}{hint}")


def _iter_archive(tar: tarfile.TarFile, name: str) -> Iterator[tuple[str, TarMember] | SkippedItem]:
    """Iterate over the plain files and the links of one archive; hidden names are passed over."""
    targets: dict[str, tuple[int, int]] = {}
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all headers in memory
        inner_path = PurePosixPath(member.name)
        if member.isdir() or is_hidden(member.name):
            continue
        shown = f"{name}/{member.name}"[:200]
        if inner_path.is_absolute() or ".." in inner_path.parts:
            yield SkippedItem(shown, "leads outside the shard")
            continue
        if member.islnk() or member.issym():
            base = PurePosixPath() if member.islnk() else inner_path.parent
            content = targets.get(_normal_name(str(base / member.linkname)))
            if content is None:
                yield SkippedItem(shown, f"a link to {member.linkname[:80]}, which the shard does not hold before it")
                continue
        elif not member.isreg() or member.issparse():
            yield SkippedItem(shown, "not a plain file")
            continue
        else:
            content = (member.offset_data, member.size)
        targets[_normal_name(member.name)] = content
        stem, _, suffix = inner_path.name.partition(".")
        key = unicodedata.normalize("NFC", str(inner_path.with_name(stem or inner_path.name)))
        yield key, TarMember(suffix.lower(), *content)


def _normal_name(name: str) -> str:
    return posixpath.normpath(name)


def _has_end_marker(path: Path, offset: int) -> bool:
    # a complete archive ends with a block of zeros; one that was cut between two members does not
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        return len(block) == tarfile.BLOCKSIZE and not any(block)


def _next_archive(path: Path, offset: int) -> int | None:
    """Return the position of the first block that is not zero; None: there is none."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK_BYTES):
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            if zeros < len(chunk):
                return offset + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            offset += len(chunk)
    return None


def _is_header(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        try:
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
    return True


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
