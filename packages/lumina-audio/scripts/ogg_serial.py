"""Gives an Ogg stream a serial number of our choice: libsndfile draws one by the clock, and no two runs would agree."""

from __future__ import annotations

POLYNOMIAL = 0x04C11DB7
"""Of the checksum of a page (RFC 3533, section 6)."""


def with_serial(data: bytes, serial: int) -> bytes:
    """The same stream, every page renumbered and its checksum renewed."""
    out, at = bytearray(data), 0
    while at < len(out):
        if out[at : at + 4] != b"OggS":
            raise SystemExit(f"no page of an Ogg stream begins at byte {at}")
        segments = out[at + 26]
        end = at + 27 + segments + sum(out[at + 27 : at + 27 + segments])
        out[at + 14 : at + 18] = serial.to_bytes(4, "little")
        out[at + 22 : at + 26] = bytes(4)
        out[at + 22 : at + 26] = _checksum(bytes(out[at:end])).to_bytes(4, "little")
        at = end
    return bytes(out)


def _checksum(page: bytes) -> int:
    found = 0
    for byte in page:
        found = ((found << 8) & 0xFFFFFFFF) ^ TABLE[(found >> 24) ^ byte]
    return found


def _entry(byte: int) -> int:
    found = byte << 24
    for _ in range(8):
        found = ((found << 1) & 0xFFFFFFFF) ^ (POLYNOMIAL if found & 0x80000000 else 0)
    return found


TABLE = tuple(map(_entry, range(256)))
