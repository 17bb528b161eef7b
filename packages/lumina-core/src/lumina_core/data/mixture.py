"""Several data sets as one: an example belongs to one of them, and each is heard as often as its weight says."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example
from lumina_core.types import Size


class WeightedDatasetSpec(ComponentSpec):
    """A data set of a mixture; every other key is an option of it."""

    weight: float | None = Field(
        None, gt=0, description="its share of the draws, compared with the others; none: as many as it has examples"
    )


class MixtureDataset(Dataset):
    """The examples of several data sets, one after another.

    With weights 3 and 1, three draws of four come from the first data set, however many examples each has; within a
    data set its own weights hold. All must have the fields that the conditioners read.
    """

    class Config(Settings):
        """Which data sets, and how often."""

        dataset: tuple[WeightedDatasetSpec, ...] = Field(
            min_length=1, description="data sets: each a part with its options, and `weight`, its share of the draws"
        )

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self.config, self.datasets = config, tuple(datasets)
        self.variable_size = any(dataset.variable_size for dataset in self.datasets)
        self._cumulative_lengths = list(itertools.accumulate(map(len, self.datasets)))
        for spec, dataset in zip(config.dataset, self.datasets, strict=True):
            if not len(dataset):
                raise ConfigError(f"core.mixture: the data set {spec.type} has no examples")
        self._weight_factors = [self._weight_factor(dataset_index) for dataset_index in range(len(self.datasets))]

    def __len__(self) -> int:
        return self._cumulative_lengths[-1]

    def get(self, index: int, rng: random.Random) -> Example:
        """That of the data set which the index belongs to."""
        dataset_index, local_index = self._locate(index)
        return self.datasets[dataset_index].get(local_index, rng)

    def values(self, field: str) -> Sequence[Any]:
        """Those of all data sets, each once."""
        return list(dict.fromkeys(value for dataset in self.datasets for value in dataset.values(field)))

    def weight(self, index: int) -> float:
        """The data set's own weight, scaled so that all examples of a data set weigh its share together."""
        dataset_index, local_index = self._locate(index)
        return self.datasets[dataset_index].weight(local_index) * self._weight_factors[dataset_index]

    def size(self, index: int, rng: random.Random) -> Size:
        """Return the size of the example, () if its data set has none."""
        dataset_index, local_index = self._locate(index)
        return self.datasets[dataset_index].size(local_index, rng)

    def sizes(self) -> list[Size]:
        """Return the sizes of all data sets, each once."""
        return list(dict.fromkeys(size for dataset in self.datasets for size in dataset.sizes()))

    def read_groups(self) -> list[int]:
        """Return the read groups of all data sets; empty if none has any."""
        groups_per_dataset = [dataset.read_groups() for dataset in self.datasets]
        if not any(groups_per_dataset):
            return []
        # an example of a data set without groups is a group of its own
        return [
            length
            for own, dataset in zip(groups_per_dataset, self.datasets, strict=True)
            for length in (own or [1] * len(dataset))
        ]

    def _locate(self, index: int) -> tuple[int, int]:
        dataset_index = bisect.bisect_right(self._cumulative_lengths, index)
        return dataset_index, index - (self._cumulative_lengths[dataset_index - 1] if dataset_index else 0)

    def _weight_factor(self, dataset_index: int) -> float:
        weight, dataset = self.config.dataset[dataset_index].weight, self.datasets[dataset_index]
        if weight is None:
            return 1.0
        total = sum(dataset.weight(index) for index in range(len(dataset)))
        return weight / total
