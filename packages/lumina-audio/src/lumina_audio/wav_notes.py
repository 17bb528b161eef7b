"""Title and comment of a WAV file: its LIST INFO chunk, of any length (libsndfile reads back only 2 KB of it)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TITLE, COMMENT = b"INAM", b"ICMT"


def add_notes(path: Path, title: str, comment: str) -> None:
    """Append both to a WAV file that has none; players that know nothing of them skip the chunk."""
    notes = b"".join(_chunk(name, text.encode() + b"\0") for name, text in ((TITLE, title), (COMMENT, comment)) if text)
    with path.open("r+b") as stream:
        stream.seek(0, 2)
        if stream.tell() % 2:
            stream.write(b"\0")
        stream.write(_chunk(b"LIST", b"INFO" + notes))
        size = stream.tell() - 8
        stream.seek(4)
        stream.write(struct.pack("<I", size))


def comment_of(path: Path) -> str:
    """The comment of a WAV file; empty where it has none or is none."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return ""
        for name, size in _chunks(stream, 12):
            if name == b"LIST" and stream.read(4) == b"INFO":
                found = dict(_notes(stream.read(size - 4)))
                if COMMENT in found:
                    return found[COMMENT].rstrip(b"\0").decode(errors="replace")
    return ""


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _chunks(stream: BinaryIO, start: int) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk; when one is yielded the stream stands at its content."""
    while True:
        stream.seek(start)
        head = stream.read(8)
        if len(head) < 8:
            return
        size = struct.unpack("<I", head[4:])[0]
        yield head[:4], size
        start += 8 + size + size % 2


def _notes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(content):
        size = struct.unpack("<I", content[place + 4 : place + 8])[0]
        yield content[place : place + 4], content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
