"""Several data sets as one: an example belongs to one of them, and each is heard as often as its weight says."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.parts import Dataset, Example
from lumina_core.types import Extent


class Weighted(Use):
    """A data set of a mixture; every other key is an option of it."""

    weight: float | None = Field(
        None, gt=0, description="its share of the draws, compared with the others; none: as many as it has examples"
    )


class Mixture:
    """The examples of several data sets, one after another.

    With weights 3 and 1, three draws of four come from the first data set, however many examples each has; within a
    data set its own weights hold. All must have the fields that the conditioners read.
    """

    class Config(Settings):
        """Which data sets, and how often."""

        dataset: tuple[Weighted, ...] = Field(
            min_length=1, description="data sets: each a part with its options, and `weight`, its share of the draws"
        )

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self.config, self.datasets = config, tuple(datasets)
        self._ends = list(itertools.accumulate(map(len, self.datasets)))
        for use, dataset in zip(config.dataset, self.datasets, strict=True):
            if not len(dataset):
                raise ConfigError(f"core.mixture: the data set {use.use} has no examples")
        self._scales = [self._scale(number) for number in range(len(self.datasets))]

    def __len__(self) -> int:
        return self._ends[-1]

    def example(self, index: int, draw: random.Random) -> Example:
        """That of the data set which the index belongs to."""
        number, within = self._place(index)
        return self.datasets[number].example(within, draw)

    def values(self, field: str) -> Sequence[Any]:
        """Those of all data sets, each once."""
        return list(dict.fromkeys(value for dataset in self.datasets for value in dataset.values(field)))

    def weight(self, index: int) -> float:
        """The data set's own weight, scaled so that all examples of a data set weigh its share together."""
        number, within = self._place(index)
        return self.datasets[number].weight(within) * self._scales[number]

    def extent(self, index: int, draw: random.Random) -> Extent:
        """That of the data set; () for one that says none, so that all of these may share a batch."""
        number, within = self._place(index)
        dataset = self.datasets[number]
        found: Extent = dataset.extent(within, draw) if hasattr(dataset, "extent") else ()
        return found

    def extents(self) -> list[Extent]:
        """Those of the data sets that say them, each once."""
        said = [dataset.extents() for dataset in self.datasets if hasattr(dataset, "extents")]
        return list(dict.fromkeys(extent for extents in said for extent in extents))

    def stretches(self) -> list[int]:
        """Those of the data sets; empty where none has any."""
        found = [dataset.stretches() if hasattr(dataset, "stretches") else [] for dataset in self.datasets]
        if not any(found):
            return []
        # where one set needs stretches and another does not, the other's examples may go anywhere
        return [
            length for own, dataset in zip(found, self.datasets, strict=True) for length in (own or [1] * len(dataset))
        ]

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _scale(self, number: int) -> float:
        weight, dataset = self.config.dataset[number].weight, self.datasets[number]
        if weight is None:
            return 1.0
        total = sum(dataset.weight(index) for index in range(len(dataset)))
        return weight / total
