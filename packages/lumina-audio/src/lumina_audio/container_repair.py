"""Repair of audio containers whose headers do not tell the length: unfinished, streamed, cut or joined files.

libsndfile believes the header. What is repaired here is the header alone; samples are never changed.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple

UNFINISHED_NOTE = "unfinished: its header was never completed, read to the end of the file"
TRUNCATED_NOTE = "truncated: its header states more data"
JOINED_NOTE = "followed by another recording in the same file, which is not read"
_CHUNKS_WITHOUT_SOUND = (
    b"LIST",
    b"fact",
    b"bext",
    b"id3 ",
    b"ID3 ",
    b"cue ",
    b"smpl",
    b"PEAK",
    b"JUNK",
    b"RIFF",
    b"iXML",
)
_UNKNOWN_LENGTH = 2**32 - 1
_SMALL_FLAC_BYTES = 2**23
"""FLAC files up to this size are searched for a second recording."""


class RepairedContainer(NamedTuple):
    """Content of an audio file with a header that tells its length, and notes about it."""

    content: bytes
    notes: tuple[str, ...] = ()


def needs_repair(head: bytes, tail: bytes, size: int) -> bool:
    """Return whether a file may have to be repaired, without reading all of it; else `repair` changes nothing.

    Args:
        head, tail: first and last bytes of the file, at least 64 KiB of each or the whole file.
        size: bytes of the file.
    """
    if head[:4] in (b"RIFF", b"RF64"):
        is_joined = 12 < int.from_bytes(head[4:8], "little") + 8 < size - 12
        data = next((chunk for chunk in _chunks(head, "<") if chunk[0] == b"data"), (b"", 0, 0))
        return is_joined or data[2] == 0 or (head[:4] == b"RF64" and data[2] == _UNKNOWN_LENGTH)
    if head[:4] == b"FORM":
        return int.from_bytes(head[4:8], "big") + 8 != size
    if head[:4] == b".snd":
        return int.from_bytes(head[8:12], "big") not in (_UNKNOWN_LENGTH, size - int.from_bytes(head[4:8], "big"))
    if head[:4] == b"fLaC":
        declared = int.from_bytes(head[18:26], "big") & (1 << 36) - 1
        return size <= _SMALL_FLAC_BYTES or not declared or declared > _last_flac_frame(head + tail)[2]
    if head[:4] == b"OggS":
        last = tail.rfind(b"OggS")
        page_size = _page_size(tail, last) if last >= 0 else 0
        is_whole = 0 < page_size <= len(tail) - last
        return not is_whole or not tail[last + 5] & 4 or tail[last + 14 : last + 18] != head[14:18]
    return head[:3] == b"ID3" or _is_mp3(head)


def repair(content: bytes) -> RepairedContainer:
    """Complete the header of a file whose length it does not tell.

    Args:
        content: the file.

    Returns:
        The content, changed only where the header is incomplete, and notes in words.
    """
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return _repair_wav(content)
    if content[:4] == b"FORM" and content[8:12] in (b"AIFF", b"AIFC"):
        return _repair_aiff(content)
    if content[:4] == b".snd":
        return _repair_au(content)
    if content[:4] == b"fLaC":
        return _repair_flac(content)
    if content[:4] == b"OggS":
        return _repair_ogg(content)
    if content[:3] == b"ID3" or _is_mp3(content):
        return _repair_mp3(content)
    return RepairedContainer(content)


# ---- WAV and AIFF: sizes of chunks


def _chunks(content: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over (name, start of the data, size) of the chunks of a RIFF or IFF file."""
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack(f"{order}4sI", content[at : at + 8])
        yield name, at + 8, size
        at += 8 + size + size % 2


def _repair_wav(content: bytes) -> RepairedContainer:
    end = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and 12 < end < len(content) - 12 and content[end : end + 4] == b"RIFF":
        return RepairedContainer(content[:end], (JOINED_NOTE,))
    for name, start, size in _chunks(content, "<"):
        if name == b"data":
            is_open = content[:4] == b"RF64" and size == _UNKNOWN_LENGTH and content[28:36] == bytes(8)
            if not (size == 0 or is_open) or not _has_samples(content, start):
                break
            length = len(content) - start
            data = bytearray(content)
            if content[:4] == b"RF64" and content[12:16] == b"ds64":
                data[20:28], data[28:36] = (n.to_bytes(8, "little") for n in (len(content) - 8, length))
                data[start - 4 : start] = b"\xff\xff\xff\xff"
            else:
                data[4:8] = min(len(content) - 8, _UNKNOWN_LENGTH).to_bytes(4, "little")
                data[start - 4 : start] = min(length, _UNKNOWN_LENGTH).to_bytes(4, "little")
            return RepairedContainer(bytes(data), (UNFINISHED_NOTE,))
    return RepairedContainer(content)


def _has_samples(content: bytes, start: int) -> bool:
    """Return whether sound follows a header of no bytes, rather than its end or the next chunk."""
    rest = content[start:]
    if len(rest) < 2:
        return False
    size = int.from_bytes(rest[4:8], "little")
    return not (rest[:4] in _CHUNKS_WITHOUT_SOUND and size <= len(rest) - 8)


def _repair_aiff(content: bytes) -> RepairedContainer:
    comm, ssnd = None, None
    for name, start, size in _chunks(content, ">"):
        comm = start if name == b"COMM" else comm
        if name == b"SSND":
            ssnd = (start, size)
            break
    if ssnd is not None and ssnd[0] + ssnd[1] > len(content) + 1:
        return RepairedContainer(content, (TRUNCATED_NOTE,))
    if comm is None or ssnd is None or ssnd[1] > 8 or len(content) - ssnd[0] <= 8:
        return RepairedContainer(content)
    channels, _, bits = struct.unpack(">hIh", content[comm : comm + 8])
    length = len(content) - ssnd[0]
    frames = (length - 8) // max(channels * ((bits + 7) // 8), 1)
    data = bytearray(content)
    data[4:8] = (len(content) - 8).to_bytes(4, "big")
    data[comm + 2 : comm + 6] = frames.to_bytes(4, "big")
    data[ssnd[0] - 4 : ssnd[0]] = length.to_bytes(4, "big")
    return RepairedContainer(bytes(data), (UNFINISHED_NOTE,))


def _repair_au(content: bytes) -> RepairedContainer:
    start, size = struct.unpack(">II", content[4:12])
    length = len(content) - start
    if size == 0 and length > 0:
        return RepairedContainer(content[:8] + length.to_bytes(4, "big") + content[12:], (UNFINISHED_NOTE,))
    return RepairedContainer(content, (TRUNCATED_NOTE,) if length < size < _UNKNOWN_LENGTH else ())


# ---- FLAC: number of samples in the first block of metadata (RFC 9639)


def _repair_flac(content: bytes) -> RepairedContainer:
    """Set the number of samples of a streamed file, and of a cut one that of its whole frames."""
    joined = content.find(b"fLaC\0\0\0\x22", 8)
    notes = (JOINED_NOTE,) if joined > 0 else ()
    if len(content) < 42 or joined > 0:
        return RepairedContainer(content, notes)
    declared = int.from_bytes(content[18:26], "big") & (1 << 36) - 1
    at, start, end = _last_flac_frame(content)
    if not at or (declared and declared <= end):
        return RepairedContainer(content)
    is_cut = _crc16(content[at:]) != 0
    total = start if is_cut else end
    if not total:
        return RepairedContainer(content)
    word = int.from_bytes(content[18:26], "big") & ~((1 << 36) - 1) | total
    whole = content[:18] + word.to_bytes(8, "big") + content[26 : at if is_cut else len(content)]
    return RepairedContainer(whole, (TRUNCATED_NOTE,) if is_cut else ())


def _last_flac_frame(content: bytes) -> tuple[int, int, int]:
    """Return position, first sample and end of the last frame; zeros if none is found."""
    first = next((at for at in (content.find(b"\xff\xf8", 42), content.find(b"\xff\xf9", 42)) if at > 0), 0)
    block_size, at = int.from_bytes(content[10:12], "big"), len(content)
    while first and (at := content.rfind(content[first : first + 2], 42, at)) > 0:
        is_alike = content[at + 3 : at + 4] == content[first + 3 : first + 4] or at == first
        frame = _flac_frame(content[at : at + 16]) if is_alike else None
        if frame is not None:
            start = frame[0] if content[at + 1] & 1 else frame[0] * block_size
            return at, start, start + frame[1]
    return 0, 0, 0


def _crc16(data: bytes) -> int:
    """Return the CRC-16 of a frame (polynomial 0x8005); 0 for a whole one, which ends with it."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def _flac_frame(head: bytes) -> tuple[int, int] | None:
    """Return number (of the frame or its first sample) and samples of a frame; None if the header is none."""
    if len(head) < 6 or head[2] >> 4 == 0:
        return None
    first = head[4]
    # the number is coded like a character of UTF-8: ones in front count its bytes
    length = 1 if first < 0x80 else 8 - (first ^ 0xFF).bit_length()
    if length in (0, 8) or (length == 1 and first >= 0x80) or len(head) < 4 + length + 1:
        return None
    number = first if length == 1 else first & ((1 << (7 - length)) - 1)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at, code = 4 + length, head[2] >> 4
    if code == 6:
        size, at = head[at] + 1, at + 1
    elif code == 7:
        size, at = int.from_bytes(head[at : at + 2], "big") + 1, at + 2
    else:
        size = 192 if code == 1 else 576 << (code - 2) if code <= 5 else 256 << (code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    return (number, size) if at < len(head) and _crc8(head[:at]) == head[at] else None


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7 if crc & 128 else crc << 1) & 255
    return crc


# ---- Ogg: pages (RFC 3533)


def _repair_ogg(content: bytes) -> RepairedContainer:
    """Mark the last whole page of a cut stream as its end; note a second stream behind the first."""
    serial, last, end = content[14:18], -1, 0
    at, is_ended = 0, False
    while content[at : at + 4] == b"OggS" and (size := _page_size(content, at)) and at + size <= len(content):
        if is_ended and content[at + 5] & 2:
            return RepairedContainer(content, (JOINED_NOTE,))
        if content[at + 14 : at + 18] == serial:
            last, is_ended = at, bool(content[at + 5] & 4)
        at += size
        end = at
    if is_ended or last < 0:
        return RepairedContainer(content)
    granule = int.from_bytes(content[last + 6 : last + 14], "little", signed=True)
    rest = _whole_packets(content, end, granule)
    if rest:
        return RepairedContainer(content[:end] + _last_page(rest), (TRUNCATED_NOTE,))
    if not granule:
        return RepairedContainer(content)  # pages of the header alone
    page = content[last : last + _page_size(content, last)]
    whole = content[:last] + _last_page(page) + content[last + len(page) : end]
    return RepairedContainer(whole, (TRUNCATED_NOTE,))


def _whole_packets(content: bytes, at: int, granule: int) -> bytes:
    """Return a cut page with those of its packets that are whole; empty if there is none.

    Args:
        content: the file.
        at: position of the page.
        granule: number of samples up to the page before it.
    """
    if content[at : at + 4] != b"OggS" or at + 27 > len(content):
        return b""
    sizes = content[at + 27 : at + 27 + content[at + 26]]
    start = at + 27 + content[at + 26]
    kept, total, num_bytes = 0, 0, 0
    for index, size in enumerate(sizes):
        total += size
        if start + total > len(content):
            break
        if size < 255:  # the end of a packet
            kept, num_bytes = index + 1, total
    if not kept:
        return b""
    head = bytearray(content[at : at + 26])
    if content[28:36] == b"OpusHead":  # its decoder wants the exact end, and the length of a packet is known
        ends = [0, *(sum(sizes[: index + 1]) for index in range(kept) if sizes[index] < 255)]
        packets = [content[start + first : start + ends[k + 1]] for k, first in enumerate(ends[:-1])]
        end = max(granule, 0) + sum(map(_opus_samples, packets))
        head[6:14] = end.to_bytes(8, "little")
    return bytes(head) + bytes([kept]) + sizes[:kept] + content[start : start + num_bytes]


def _opus_samples(packet: bytes) -> int:
    """Return the samples of a packet at 48 kHz (RFC 6716, 3.1)."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    frame = (
        (480, 960, 1920, 2880)[config % 4]
        if config < 12
        else (480, 960)[config % 2]
        if config < 16
        else 120 << config % 4
    )
    count = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    return frame * count


def _last_page(page: bytes) -> bytes:
    """Mark a page as the last one of its stream."""
    data = bytearray(page)
    data[5] |= 4
    data[22:26] = bytes(4)
    data[22:26] = _ogg_crc(bytes(data)).to_bytes(4, "little")
    return bytes(data)


def _page_size(content: bytes, at: int) -> int:
    if at + 27 > len(content):
        return 0
    count = content[at + 26]
    return 27 + count + sum(content[at + 27 : at + 27 + count])


@functools.lru_cache(maxsize=1)
def _ogg_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        table.append(crc)
    return tuple(table)


def _ogg_crc(page: bytes) -> int:
    crc, table = 0, _ogg_table()
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return crc


# ---- MP3: number of frames (ISO 11172-3, 13818-3)

_BIT_RATES = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _is_mp3(head: bytes) -> bool:
    return len(head) >= 4 and _mp3_frame_size(head, 0) > 0


def _mp3_frame_size(content: bytes, at: int) -> int:
    """Return the bytes of the frame of layer III at a position; 0: there is none."""
    head = content[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # sync, layer III
        return 0
    version, rate_index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or rate == 3 or rate_index in (0, 15):
        return 0
    factor = 144 if version == 3 else 72
    bit_rate = _BIT_RATES[3 if version == 3 else 2][rate_index]
    return factor * bit_rate * 1000 // _SAMPLE_RATES[version][rate] + (head[2] >> 1 & 1)


def _repair_mp3(content: bytes) -> RepairedContainer:
    """Give an MP3 a first frame that counts its frames, if there is none or it counts others."""
    start = _skip_id3(content, 0)
    first = _mp3_frame_size(content, start)
    if not first:
        return RepairedContainer(content)
    side = {(3, False): 32, (3, True): 17, (2, False): 17, (2, True): 9}
    version, is_mono = content[start + 1] >> 3 & 3, content[start + 3] >> 6 == 3
    tag_at = start + 4 + side[3 if version == 3 else 2, is_mono]
    tag = content[tag_at : tag_at + 4]
    has_tag = tag in (b"Xing", b"Info")
    has_count = has_tag and bool(content[tag_at + 7] & 1)
    declared = int.from_bytes(content[tag_at + 8 : tag_at + 12], "big") if has_count else None
    audio = start + first if has_tag else start
    count, cut = _count_mp3_frames(content, audio)
    # the count may leave out the last frame, which only flushes the decoder
    if not count or (declared is not None and abs(declared - count) <= 1 and not cut):
        return RepairedContainer(content)
    notes = (TRUNCATED_NOTE,) if declared is not None and declared > count + 1 else ()
    if has_count:  # what follows in the frame (delay of the encoder) holds; the table of positions and the size do not
        flags = (content[tag_at + 7] & 1).to_bytes(4, "big")
        head = content[start:tag_at] + tag + flags + count.to_bytes(4, "big")
        rest = _without_position_table(content[tag_at + 7], content[tag_at + 12 : audio])
        return RepairedContainer((head + rest).ljust(first, b"\0") + content[audio:], notes)
    # a frame without checksum, of a bit rate that gives it room for the count
    head = bytes([0xFF, content[start + 1] | 1, 9 << 4 | content[start + 2] & 0x0C, content[start + 3]])
    frame = bytearray(_mp3_frame_size(head, 0))
    frame[:4] = head
    tag_at = tag_at - start
    frame[tag_at : tag_at + 12] = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return RepairedContainer(bytes(frame) + content[audio:], notes)


def _without_position_table(flags: int, fields: bytes) -> bytes:
    """Return the fields of a first frame behind its count without size (flag 2), positions (4) and quality (8)."""
    return fields[(4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0) :]


def _skip_id3(content: bytes, at: int) -> int:
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        size = functools.reduce(lambda total, byte: total << 7 | byte & 127, content[at + 6 : at + 10], 0)
        at += 10 + size + (10 if content[at + 5] & 16 else 0)
    while at < len(content) and not content[at]:  # padding
        at += 1
    return at


def _count_mp3_frames(content: bytes, at: int) -> tuple[int, bool]:
    """Return the number of whole frames from a position on, and whether the last one is cut."""
    count = 0
    while at + 4 <= len(content):
        size = _mp3_frame_size(content, at)
        if not size:
            next_at = _skip_id3(content, at)
            if next_at == at or not _mp3_frame_size(content, next_at):
                return count, False  # tags at the end, or what is no frame
            at = next_at
            continue
        if at + size > len(content):
            return count, True
        count += 1
        at += size
    return count, False
