"""Captions of one item: one list of texts per source (a captioner, a person), of which one text is sampled per read."""

from __future__ import annotations

import codecs
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumina_core.errors import ConfigError, UnusableError, replace_surrogates
from lumina_core.io import GIT_LFS_SIGN, describe_content, split_lines

MAX_CAPTION_BYTES = 1_000_000
"""Largest caption file of one item."""

MAX_ARRAY_BYTES = 2**28
"""Largest table that is one JSON array; larger ones need an object per line."""

CAPTION_FIELDS = ("captions", "caption", "text")
"""Fields of a record (a line of JSON, a sidecar file) that hold captions; the first present one counts."""


class CaptionSource(NamedTuple):
    """Texts of one source and its sampling weight, relative to the other sources."""

    source: str
    texts: tuple[str, ...]
    weight: float = 1.0


Captions = tuple[CaptionSource, ...]
"""At least one source, each with at least one text."""


def sample_caption(captions: Captions, rng: random.Random) -> str:
    """Draw a source by weight, then one of its texts uniformly.

    The number of texts of a captioner therefore does not change its probability. The paper names its mixture of
    captioners without the shares, which are set by the user.
    """
    source = captions[0] if len(captions) == 1 else rng.choices(captions, [source.weight for source in captions])[0]
    return rng.choice(source.texts)


def all_texts(captions: Captions) -> Iterator[str]:
    """Iterate over every text that can be sampled."""
    return (text for source in captions for text in source.texts)


def read_record(record: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> Captions:
    """Read the captions of a record from one of `CAPTION_FIELDS`; its own `caption_weights` override `weights`.

    Raises:
        UnusableError: the record has no caption, or its weights are not numbers.
    """
    own_weights = record.get("caption_weights") or {}
    if not isinstance(own_weights, Mapping):
        raise UnusableError('its "caption_weights" are not numbers by source')
    value = next((record[field] for field in CAPTION_FIELDS if record.get(field) is not None), None)
    return read_captions(value, {**(weights or {}), **own_weights})


def read_captions(value: Any, weights: Mapping[str, Any] | None = None) -> Captions:
    """Read captions from a text, a list of texts, or either by source name.

    Args:
        value: sources with an empty text or a weight of 0 are dropped; runs of white space become one space, and
            halves of characters U+FFFD.
        weights: sampling weight by source name, 0 or more; the default of a source is 1.

    Raises:
        UnusableError: a weight is not a number from 0 on, or no source with texts is left.
    """
    texts_by_source = value if isinstance(value, Mapping) else {"": value}
    source_weights = weights if weights and isinstance(value, Mapping) else {}
    sources = []
    for name, texts in texts_by_source.items():
        listed = texts if isinstance(texts, list | tuple) else [texts]
        normalized = (" ".join(replace_surrogates(text).split()) for text in listed if isinstance(text, str))
        weight = _check_weight(source_weights.get(str(name), 1.0), str(name))
        sources.append(CaptionSource(str(name), tuple(text for text in normalized if text), weight))
    captions = tuple(source for source in sources if source.texts and source.weight > 0)
    if not captions:
        zero_weight = ", ".join(source.source for source in sources if source.texts)
        if zero_weight:
            raise UnusableError(f"no caption: of its sources, {zero_weight}, none has a weight above 0")
        raise UnusableError("no caption: not a text, a list of texts, or texts by source")
    return captions


def _check_weight(weight: Any, source: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise UnusableError(f"its caption weight of '{source}' is {str(weight)[:40]!r}, expected a number from 0 on")
    return float(weight)


def read_lines(data: bytes, weights: Mapping[str, float] | None = None) -> Captions:
    """Read a text sidecar: one caption a line; lines end at CR or LF.

    Raises:
        UnusableError: it is too long, not UTF-8, or empty.
    """
    try:
        return read_captions(split_lines(_check_length(data).decode("utf-8-sig")), weights)
    except UnicodeDecodeError as error:
        raise UnusableError("no caption: the file is not UTF-8 text") from error


def read_json(data: bytes, weights: Mapping[str, float] | None = None) -> Captions:
    """Read a JSON sidecar: an object with one of `CAPTION_FIELDS`.

    Raises:
        UnusableError: it is too long, not a JSON object, or has no caption.
    """
    try:
        record = json.loads(_check_length(data).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UnusableError("no caption: the file is not JSON") from error
    if not isinstance(record, dict):
        raise UnusableError("no caption: the file holds no JSON object")
    return read_record(record, weights)


def iter_json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Iterate over (position, row) of a table in JSON: an object per line, an array of objects, or one around it.

    Args:
        path: a file; its lines are read one after another unless it holds one array.

    Returns:
        Positions such as `captions.jsonl:7` or `table.json[6]`; the row of a line that is no JSON is None.

    Raises:
        ConfigError: the file is a pointer of Git LFS.
    """
    rows = _read_json_array(path)
    if rows is not None:
        yield from ((f"{path.name}[{index}]", row) for index, row in enumerate(rows))
        return
    # bytes, since one line that is not UTF-8 should cost that line only
    with path.open("rb") as file:
        number = 0
        for chunk in file:
            for line in chunk.rstrip(b"\n").removesuffix(b"\r").split(b"\r"):
                number += 1
                text = line.removeprefix(codecs.BOM_UTF8).strip()
                if text:
                    yield f"{path.name}:{number}", _parse_json(text)


def _read_json_array(path: Path) -> list[Any] | None:
    """Return the rows of a file that is one JSON array, or one object with a single array of objects; else None."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if head.startswith(GIT_LFS_SIGN):
            raise ConfigError(f"{path}: got {describe_content(head)}")
        if not head.startswith((b"[", b"{")) or path.stat().st_size > MAX_ARRAY_BYTES:
            return None
        if head.startswith(b"{"):
            file.seek(0)
            first_line = _parse_json(file.readline().removeprefix(codecs.BOM_UTF8))
            if isinstance(first_line, dict) and not any(isinstance(value, list) for value in first_line.values()):
                return None  # lines of objects; no need to read the whole file
        file.seek(0)
        content = _parse_json(file.read().removeprefix(codecs.BOM_UTF8))
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return None
    arrays = [v for v in content.values() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
    return arrays[0] if len(arrays) == 1 else None


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _check_length(data: bytes) -> bytes:
    if data.startswith(GIT_LFS_SIGN):
        raise UnusableError(f"no caption: {describe_content(data)}")
    if len(data) > MAX_CAPTION_BYTES:
        raise UnusableError(f"no caption: the file has more than {MAX_CAPTION_BYTES} bytes")
    return data
