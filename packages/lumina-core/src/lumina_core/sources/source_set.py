"""What every data set that reads a source does alike: skips what is damaged, draws a caption, tells what is left."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.parts import Example
from lumina_core.sources.captions import draw_caption, texts_of
from lumina_core.sources.index import Index
from lumina_core.sources.source import Held, Skipped, Source
from lumina_core.sources.unusable import UnusableError

logger = logging.getLogger("lumina.sources")

Make = Callable[[Held, int], Tensor]
"""What is held of an item, and its number in the index, as data; raises UnusableError."""

NAMED = 8
"""So many of the skipped are named in a message; all of them are in `skipped`."""


class SourceSet:
    """Items of a source by index. A data set of some modality is this, and makes data of what is held.

    Args:
        part: name of the part, for messages.
        nouns: what the items are called there: pictures.
    """

    def __init__(self, part: str, nouns: str, source: Source, index: Index) -> None:
        self._part, self._nouns, self._source, self._index = part, nouns, source, index
        self.skipped = list(index.skipped)
        self._numbers = self._kept()
        self._broken: set[int] = set()
        self._report()

    def __len__(self) -> int:
        return len(self._numbers)

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: every caption, each once. `file`: every name. Further fields are the source's.

        Raises:
            ConfigError: there is no such field.
        """
        if field == "caption":
            pools = (self._source.captions(self._index.place(number)) for number in self._numbers)
            return list(dict.fromkeys(text for captions in pools for text in texts_of(captions)))
        if field == "file":
            return [self._index.name(number) for number in self._numbers]
        values = self._source.values(field)
        if values is None:
            raise ConfigError(f"{self._part} lists the values of 'caption' and 'file', not of '{field}'")
        return values

    def weight(self, index: int) -> float:
        """1: every item is drawn equally often."""
        return 1.0

    def stretches(self) -> list[int]:
        """How many examples in a row are cheaply read together, a stretch after another; empty: any order is alike."""
        if not self._source.together:
            return []
        near = self._index.places[self._numbers, : self._source.together]
        edges = np.flatnonzero((near[1:] != near[:-1]).any(1)) + 1
        return [int(one) for one in np.diff([0, *edges.tolist(), len(near)])]

    def summary(self) -> str:
        """One line: how many items are used, how many were skipped, which and why."""
        used = len(self._numbers) - len(self._broken)
        if not self.skipped:
            return f"{self._source.title}: {used} {self._nouns}, none skipped"
        named = "; ".join(f"{name} ({reason})" for name, reason in self.skipped[:NAMED])
        more = f"; and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
        return f"{self._source.title}: {used} {self._nouns}, {len(self.skipped)} skipped: {named}{more}"

    def _kept(self) -> np.ndarray:
        """The numbers of the items in the index that are used."""
        return np.arange(len(self._index))

    def _example(self, index: int, field: str, draw: random.Random, make: Make) -> Example:
        """The data that `make` makes of an item as `field`, `caption`, `file`, and the source's own fields.

        An item that turns out to be damaged is skipped for good: the next whole one stands in.

        Raises:
            ConfigError: none can be read any more.
        """
        for place in itertools.chain(range(index, len(self)), range(index)):
            found = None if place in self._broken else self._read(place, field, draw, make)
            if found is not None:
                return found
        raise ConfigError(
            f"{self._part}: no {self._nouns.removesuffix('s')} of '{self._source.title}' can be read any more"
        )

    def _read(self, index: int, field: str, draw: random.Random, make: Make) -> Example | None:
        number = int(self._numbers[index])
        place = self._index.place(number)
        name = self._index.name(number)
        try:
            captions, more = self._source.captions(place), self._source.more(place)
            data = make(self._source.held(place), number)
        except UnusableError as error:
            self._broken.add(index)
            self.skipped.append(Skipped(name, str(error)))
            logger.warning("skipped from now on: %s (%s); %d skipped in all", name, error, len(self.skipped))
            return None
        return {field: data, "caption": draw_caption(captions, draw), "file": name, **more}

    def _report(self) -> None:
        if not len(self._numbers):
            why = self.summary() if self.skipped else f"'{self._source.title}' is empty"
            raise ConfigError(f"{self._part}: nothing to train on: {why}. {self._source.advice}")
        if self.skipped:
            logger.warning("%s", self.summary())
