"""Where examples come from: what a folder, a shard and a table have in common, so that all are looked through alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lumina_core.sources.captions import Captions

Held = Path | bytes
"""An item as it is kept: a file, or the bytes of one."""

Place = tuple[int, ...]
"""Numbers by which a source finds an item again without looking through the others."""


class Found(NamedTuple):
    """An item with captions: what it is called, where it is, and its file or bytes while it is at hand."""

    name: str
    place: Place
    held: Held


class Skipped(NamedTuple):
    """An item, a line or a shard that is not used, and why."""

    name: str
    reason: str


class Source(Protocol):
    """Items with captions, looked through once from beginning to end and then asked in any order."""

    title: str
    """What it is called in messages: the folder."""
    advice: str
    """What to do where it holds nothing."""
    together: int
    """So many leading numbers of a place say what is cheaply read together (a row group); 0: every order is alike."""

    def count(self) -> int:
        """About how many items there are."""
        ...

    def scan(self) -> Iterator[Found | Skipped]:
        """All of them in a fixed order."""
        ...

    def held(self, place: Place) -> Held:
        """The file or the bytes of one item.

        Raises:
            UnusableError: it is not there any more.
        """
        ...

    def captions(self, place: Place) -> Captions:
        """What is said of it.

        Raises:
            UnusableError: that cannot be read any more.
        """
        ...

    def more(self, place: Place) -> Mapping[str, Any]:
        """Further fields of its example."""
        ...

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further field; None where there is no such field."""
        ...

    def home(self) -> Path | None:
        """Where the index of what was found may be kept; None: looking through again is as quick."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """All that an index of it depends on but the data."""
        ...

    def state(self) -> Any:
        """Changes when the data change, as plain data."""
        ...
