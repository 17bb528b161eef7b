"""The captions of one item: one pool a source (a captioner, a person), of which one caption is drawn each time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lumina_core.sources.unusable import UnusableError

MOST = 1_000_000
"""Bytes that a file of captions of one item may have."""

FIELDS = ("captions", "caption", "text")
"""Where a record (a line of JSON, a file beside an item) may say its captions; the first that is there counts."""


class Pool(NamedTuple):
    """What one source says of an item, and how often it is heard, compared with the other sources."""

    source: str
    texts: tuple[str, ...]
    weight: float = 1.0


Captions = tuple[Pool, ...]
"""At least one pool, each with at least one text."""


def draw_caption(captions: Captions, draw: random.Random) -> str:
    """A caption of one source: the source by its weight, of its texts each as likely.

    So a captioner that says much is not heard more often than one that says little; the paper's mixture of captioners
    is named there without its shares, which are the user's to say.
    """
    pool = captions[0] if len(captions) == 1 else draw.choices(captions, [pool.weight for pool in captions])[0]
    return draw.choice(pool.texts)


def texts_of(captions: Captions) -> Iterator[str]:
    """Every text that can be drawn."""
    return (text for pool in captions for text in pool.texts)


def read_record(record: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> Captions:
    """The captions that a record says in one of FIELDS, with its own `caption_weights` over the given `weights`.

    Raises:
        UnusableError: it says none, or its weights are no numbers.
    """
    own = record.get("caption_weights") or {}
    if not isinstance(own, Mapping):
        raise UnusableError('its "caption_weights" are not numbers by source')
    said = next((record[field] for field in FIELDS if record.get(field) is not None), None)
    return read_captions(said, {**(weights or {}), **own})


def read_captions(said: Any, weights: Mapping[str, Any] | None = None) -> Captions:
    """A text, a list of texts, or texts by their source -> pools; blanks are joined, empty texts left out.

    Raises:
        UnusableError: there is no text, or a weight is not a number from 0 on, or no source with texts is left by them.
    """
    if isinstance(said, Mapping):
        given = weights or {}
        pools = [Pool(str(source), _clean(texts), _weight(given, str(source))) for source, texts in said.items()]
    else:
        pools = [Pool("", _clean(said))]
    captions = tuple(pool for pool in pools if pool.texts and pool.weight > 0)
    if not captions:
        silent = [pool.source for pool in pools if pool.texts]
        raise UnusableError(
            f"no caption: of its sources, {', '.join(silent)}, none has a weight above 0"
            if silent
            else "no caption: not a text, a list of texts, or texts by source"
        )
    return captions


def _clean(said: Any) -> tuple[str, ...]:
    listed = said if isinstance(said, list | tuple) else [said]
    texts = (" ".join(one.split()) for one in listed if isinstance(one, str))
    return tuple(text for text in texts if text)


def _weight(weights: Mapping[str, Any], source: str) -> float:
    weight = weights.get(source, 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise UnusableError(f"its caption weight of '{source}' is {str(weight)[:40]!r}, and no number from 0 on")
    return float(weight)


def read_lines(data: bytes, weights: Mapping[str, float] | None = None) -> Captions:
    """The text beside an item: a caption a line.

    Raises:
        UnusableError: it is too long, no UTF-8, or empty.
    """
    try:
        return read_captions(_within(data).decode("utf-8-sig").splitlines(), weights)
    except UnicodeDecodeError as error:
        raise UnusableError("no caption: the file is not UTF-8 text") from error


def read_json(data: bytes, weights: Mapping[str, float] | None = None) -> Captions:
    """The JSON beside an item: an object with one of FIELDS.

    Raises:
        UnusableError: it is too long, no such object, or says no caption.
    """
    try:
        said = json.loads(_within(data))
    except (ValueError, RecursionError) as error:
        raise UnusableError("no caption: the file is not JSON") from error
    if not isinstance(said, dict):
        raise UnusableError("no caption: the file holds no JSON object")
    return read_record(said, weights)


def _within(data: bytes) -> bytes:
    if len(data) > MOST:
        raise UnusableError(f"no caption: the file has more than {MOST} bytes")
    return data
