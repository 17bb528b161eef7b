"""Small images, folders and shards for tests of data sets."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode_image(colour=RED, size=(40, 30), form="PNG") -> bytes:
    """A picture of one colour as the bytes of a file."""
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, form)
    return held.getvalue()


def write_tar(path: Path, members: dict[str, bytes | str | dict], form=tarfile.PAX_FORMAT) -> Path:
    """A shard of these members, in this order; what is a dict is written as JSON."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_members(count: int, begin: int = 0, size=(40, 30)) -> dict[str, bytes | str]:
    """Members of a shard: pictures by number, each redder than the one before, and their captions."""
    members: dict[str, bytes | str] = {}
    for number in range(begin, begin + count):
        members[f"{number:03}.png"] = encode_image((number, 0, 0), size)
        members[f"{number:03}.txt"] = f"number {number}"
    return members


def skip_reasons(data) -> dict[str, str]:
    """Why each of the skipped is skipped, by its name."""
    return {skipped.name: skipped.reason for skipped in data.skipped}


def giant_header(path, width=20990, height=29700):
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    path.with_suffix(".txt").write_text("huge", encoding="utf-8")
