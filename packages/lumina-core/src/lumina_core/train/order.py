"""Which example comes when: decided by (seed, epoch, place) alone; neither workers nor ranks change anything."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Draw:
    """One example of one step: what to read, and the seed of all that is drawn at random for it."""

    index: int
    seed: int

    def python(self) -> random.Random:
        """For crops and the choice of a caption."""
        return random.Random(self.seed)

    def torch(self) -> torch.Generator:
        """For times, noise and dropped conditions; always on the CPU, so that devices agree."""
        return torch.Generator().manual_seed(self.seed)


class Order:
    """The endless order of a weighted data set.

    An epoch has as many places as the data set has examples; each example gets its share of them by weight (systematic
    resampling: a share of 2.3 is 2 or 3 places), shuffled. With equal weights an epoch is a plain permutation.

    Args:
        weights: one positive number an example.
        seed: the run's.
    """

    def __init__(self, weights: list[float], seed: int) -> None:
        self._edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        self._seed = seed
        self._epoch, self._indices = -1, np.zeros(0, dtype=np.int64)

    def step(self, step: int, batch: int) -> list[Draw]:
        """The `batch` examples of one step, the first step being 0."""
        return [self._draw(place) for place in range(step * batch, (step + 1) * batch)]

    def share(self, step: int, batch: int, rank: int, world: int) -> list[Draw]:
        """The examples of one process among `world`: every world-th, beginning with its rank."""
        return self.step(step, batch)[rank::world]

    def _draw(self, place: int) -> Draw:
        epoch, within = divmod(place, len(self._edges))
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self._shuffled(epoch)
        return Draw(int(self._indices[within]), _seed_of(self._seed, epoch, within))

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self._seed, epoch])
        count = len(self._edges)
        ticks = (np.arange(count) + generator.random()) * (self._edges[-1] / count)
        indices = np.searchsorted(self._edges, ticks, side="right").clip(max=count - 1)
        return generator.permutation(indices)


def _seed_of(seed: int, epoch: int, place: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Reader:
    """Reads the examples of one step at a time; what a DataLoader iterates over, with or without worker processes."""

    def __init__(self, order: Order, start: int, stop: int, batch: int, place: tuple[int, int]) -> None:
        self._order, self._steps, self._batch, self._place = order, range(start, stop), batch, place

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in self._steps:
            yield self._order.share(step, self._batch, *self._place)
