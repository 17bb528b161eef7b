"""Data sets of the core: adapter of plain PyTorch data sets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example


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
