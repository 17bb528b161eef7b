"""The captions of one item: one pool a source (a captioner, a person), of which one caption is drawn each time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from lumina_core.errors import UnusableError

MAX_CAPTION_BYTES = 1_000_000
"""Bytes that a file of captions of one item may have."""

CAPTION_FIELDS = ("captions", "caption", "text")
"""Where a record (a line of JSON, a file beside an item) may say its captions; the first that is there counts."""


class CaptionSource(NamedTuple):
    """What one source says of an item, and how often it is heard, compared with the other sources."""

    source: str
    texts: tuple[str, ...]
    weight: float = 1.0


Captions = tuple[CaptionSource, ...]
"""At least one pool, each with at least one text."""


def sample_caption(captions: Captions, rng: random.Random) -> str:
    """A caption of one source: the source by its weight, of its texts each as likely.

    So a captioner that says much is not heard more often than one that says little; the paper's mixture of captioners
    is named there without its shares, which are the user's to say.
    """
    source = captions[0] if len(captions) == 1 else rng.choices(captions, [source.weight for source in captions])[0]
    return rng.choice(source.texts)


def all_texts(captions: Captions) -> Iterator[str]:
    """Every text that can be drawn."""
    return (text for source in captions for text in source.texts)


def read_record(record: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> Captions:
    """The captions that a record says in one of FIELDS, with its own `caption_weights` over the given `weights`.

    Raises:
        UnusableError: it says none, or its weights are no numbers.
    """
    own = record.get("caption_weights") or {}
    if not isinstance(own, Mapping):
        raise UnusableError('its "caption_weights" are not numbers by source')
    value = next((record[field] for field in CAPTION_FIELDS if record.get(field) is not None), None)
    return read_captions(value, {**(weights or {}), **own})


def read_captions(value: Any, weights: Mapping[str, Any] | None = None) -> Captions:
    """A text, a list of texts, or texts by their source -> pools; blanks are joined, empty texts left out.

    Raises:
        UnusableError: there is no text, or a weight is not a number from 0 on, or no source with texts is left by them.
    """
    if isinstance(value, Mapping):
        source_weights = weights or {}
        sources = [
            CaptionSource(str(source), _normalize_texts(texts), _source_weight(source_weights, str(source)))
            for source, texts in value.items()
        ]
    else:
        sources = [CaptionSource("", _normalize_texts(value))]
    captions = tuple(pool for pool in sources if pool.texts and pool.weight > 0)
    if not captions:
        zero_weight = [pool.source for pool in sources if pool.texts]
        raise UnusableError(
            f"no caption: of its sources, {', '.join(zero_weight)}, none has a weight above 0"
            if zero_weight
            else "no caption: not a text, a list of texts, or texts by source"
        )
    return captions


def _normalize_texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    texts = (" ".join(one.split()) for one in listed if isinstance(one, str))
    return tuple(text for text in texts if text)


def _source_weight(weights: Mapping[str, Any], source: str) -> float:
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
        return read_captions(_check_size(data).decode("utf-8-sig").splitlines(), weights)
    except UnicodeDecodeError as error:
        raise UnusableError("no caption: the file is not UTF-8 text") from error


def read_json(data: bytes, weights: Mapping[str, float] | None = None) -> Captions:
    """The JSON beside an item: an object with one of FIELDS.

    Raises:
        UnusableError: it is too long, no such object, or says no caption.
    """
    try:
        record = json.loads(_check_size(data))
    except (ValueError, RecursionError) as error:
        raise UnusableError("no caption: the file is not JSON") from error
    if not isinstance(record, dict):
        raise UnusableError("no caption: the file holds no JSON object")
    return read_record(record, weights)


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_CAPTION_BYTES:
        raise UnusableError(f"no caption: the file has more than {MAX_CAPTION_BYTES} bytes")
    return data


ReadT = TypeVar("ReadT")
CACHED_FILES = 4
"""Files: a file of prompts asks for the same one again and again."""


def cached_read(read: Callable[[Path], ReadT], what: str) -> Callable[[Path], ReadT]:
    """`read`, which remembers a few files by path, time of change and size.

    The function raises ValueError, as a field of a request wants it, where a file is not there, is a folder or a pipe
    (whoever feeds it may never come), or `read` finds it unusable.

    Args:
        what: such a file is, with its article, for the message.
    """

    @lru_cache(maxsize=CACHED_FILES)
    def read_cached(path: Path, changed: int, size: int) -> ReadT:
        if path.is_dir():
            raise UnusableError("it is a folder; name a file in it")
        if not path.is_file():
            raise UnusableError("not a plain file")
        return read(path)

    def read_checked(path: Path) -> ReadT:
        try:
            stamp = path.stat()
            return read_cached(path, stamp.st_mtime_ns, stamp.st_size)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except UnusableError as error:
            raise ValueError(f"{path} cannot be used as {what}: {error}") from error

    return read_checked


FileOrBytes = Path | bytes
"""An item as it is kept: a file, or the bytes of one."""

ItemRef = tuple[int, ...]
"""Numbers by which a source finds an item again without looking through the others."""


class Item(NamedTuple):
    """An item with captions: what it is called, where it is, and its file or bytes while it is at hand."""

    name: str
    ref: ItemRef
    content: FileOrBytes


class SkippedItem(NamedTuple):
    """An item, a line or a shard that is not used, and why."""

    name: str
    reason: str


class Source(Protocol):
    """Items with captions, looked through once from beginning to end and then asked in any order."""

    title: str
    """What it is called in messages: the folder."""
    advice: str
    """What to do where it holds nothing."""
    group_dims: int
    """So many leading numbers of a place say what is cheaply read together (a row group); 0: every order is alike."""

    def count(self) -> int:
        """About how many items there are."""
        ...

    def scan(self) -> Iterator[Item | SkippedItem]:
        """All of them in a fixed order."""
        ...

    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """The file or the bytes of one item.

        Raises:
            UnusableError: it is not there any more.
        """
        ...

    def captions(self, ref: ItemRef) -> Captions:
        """What is said of it.

        Raises:
            UnusableError: that cannot be read any more.
        """
        ...

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Further fields of its example."""
        ...

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further field; None where there is no such field."""
        ...

    def index_dir(self) -> Path | None:
        """Where the index of what was found may be kept; None: looking through again is as quick."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """All that an index of it depends on but the data."""
        ...

    def state(self) -> Any:
        """Changes when the data change, as plain data."""
        ...
