"""Data sets over others: mixtures, and the adapter of plain PyTorch data sets."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example
from lumina_core.types import Size


class WeightedDatasetSpec(ComponentSpec):
    """Data set of a mixture; every other key is an option of it."""

    weight: float | None = Field(
        None, gt=0, description="share of the draws, relative to the other data sets; set it for all of them or none"
    )


class MixtureDataset(Dataset):
    """Examples of several data sets, concatenated.

    A weight is the share of a whole data set, not of one example: with weights 3 and 1, three of four draws come from
    the first data set, whatever the number of examples. Without weights every example counts by its own weight, so that
    a data set has a share in proportion to its number of examples. Within a data set its own weights hold. All data
    sets must have the fields that the conditioners read.

    Raises:
        ConfigError: a data set is empty, or only some of them have a weight.
    """

    class Config(Settings):
        """Data sets and their weights."""

        dataset: tuple[WeightedDatasetSpec, ...] = Field(
            min_length=1,
            description="data sets: each a component with its options, and `weight`, its share of the draws",
        )

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self.config, self.datasets = config, tuple(datasets)
        self.variable_size = any(dataset.variable_size for dataset in self.datasets)
        self._ends = list(itertools.accumulate(map(len, self.datasets)))
        for spec, dataset in zip(config.dataset, self.datasets, strict=True):
            if not len(dataset):
                raise ConfigError(f"core.mixture: the data set {spec.type} has no examples")
        unweighted = [spec.type for spec in config.dataset if spec.weight is None]
        if 0 < len(unweighted) < len(config.dataset):
            raise ConfigError(
                f"core.mixture weight: got none for {', '.join(unweighted)}, expected one for every data set or for "
                "none. A weight is the share of a whole data set, not of one example."
            )
        self._weight_factors = [
            1.0 if spec.weight is None else spec.weight / sum(map(dataset.weight, range(len(dataset))))
            for spec, dataset in zip(config.dataset, self.datasets, strict=True)
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def first_indices(self) -> list[int]:
        """Return the index of the first example of each data set, also of those within mixtures."""
        starts = [0, *self._ends[:-1]]
        members = [one.first_indices() for one in self.datasets]
        return [start + index for start, inner in zip(starts, members, strict=True) for index in inner]

    def get(self, index: int, rng: random.Random) -> Example:
        """Return an example of the data set that the index belongs to."""
        number, inner_index = self._locate(index)
        return self.datasets[number].get(inner_index, rng)

    def values(self, field: str) -> Sequence[Any]:
        """Return the values of all data sets, each once."""
        return list(dict.fromkeys(value for dataset in self.datasets for value in dataset.values(field)))

    def weight(self, index: int) -> float:
        """Return the example's own weight, scaled so that the weights of a data set sum to its share."""
        number, inner_index = self._locate(index)
        return self.datasets[number].weight(inner_index) * self._weight_factors[number]

    def size(self, index: int, rng: random.Random) -> Size:
        """Return the size of the example, () if its data set has none."""
        number, inner_index = self._locate(index)
        return self.datasets[number].size(inner_index, rng)

    def sizes(self) -> Sequence[Size]:
        """Return the sizes of all data sets, each once."""
        return list(dict.fromkeys(size for dataset in self.datasets for size in dataset.sizes()))

    def read_groups(self) -> Sequence[int]:
        """Return the read groups of all data sets; empty if none has any."""
        groups = [dataset.read_groups() for dataset in self.datasets]
        if not any(groups):
            return []
        # an example of a data set without groups is a group of its own
        return [n for own, dataset in zip(groups, self.datasets, strict=True) for n in own or [1] * len(dataset)]

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the number of the data set, and the index within it."""
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)


@runtime_checkable
class MapStyleDataset(Protocol):
    """Map-style data set as PyTorch defines it: a length, and an item by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class MapStyleAdapter(Dataset):
    """Data set over a plain PyTorch data set (or list) whose items are dicts by field name.

    Random numbers that the items draw are not under control of the seed; batches hold items of any size.
    """

    def __init__(self, items: MapStyleDataset) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return the item at an index.

        Raises:
            ConfigError: the item is not a dict with field names.
        """
        example = self._items[index]
        if not isinstance(example, Mapping) or not all(isinstance(name, str) for name in example):
            raise ConfigError(
                f"dataset[{index}]: got {type(example).__name__}, expected a dict such as "
                "{'image': tensor, 'caption': text}. Return one from `__getitem__`."
            )
        return example

    def values(self, field: str) -> Sequence[Any]:
        """Return every value of a field, each once, by reading all items.

        Raises:
            ConfigError: an item lacks the field.
        """
        found: dict[Any, None] = {}
        for index in range(len(self)):
            example = self.get(index, random.Random(index))
            if field not in example:
                raise ConfigError(
                    f"dataset[{index}]: got the fields {', '.join(example)}, expected '{field}' among them."
                )
            found[example[field]] = None
        return list(found)


def as_dataset(dataset: Dataset | MapStyleDataset) -> Dataset:
    """Return a data set as it is, or adapt a plain PyTorch data set of dicts.

    Raises:
        ConfigError: the object is neither.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, MapStyleDataset):
        return MapStyleAdapter(dataset)
    raise ConfigError(
        f"dataset: got {type(dataset).__name__}, expected a lumina_core Dataset or a PyTorch data set with `__len__` "
        "and `__getitem__`. Subclass `lumina_core.protocols.Dataset`."
    )
