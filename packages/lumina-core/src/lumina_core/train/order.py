"""Which example comes when: decided by (seed, epoch, place) alone; neither workers nor ranks change anything."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lumina_core.errors import ConfigError
from lumina_core.parts import Dataset
from lumina_core.types import Extent

MIXED = 2**12
"""Examples shuffled among each other where some are cheaply read together: what a shuffle buffer would hold."""

ARRANGED = 2**16
"""Draws at most that are looked at together to make batches of one extent."""


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
        stretches: how many examples in a row are cheaply read together (a row group of a file), one stretch after
            another; none: every order is alike. With stretches, whole ones are shuffled, and then the examples of
            MIXED neighbours: as with a shuffle buffer, but from the numbers alone, so that any step can be resumed.
    """

    def __init__(self, weights: list[float], seed: int, stretches: Sequence[int] = ()) -> None:
        if not weights:
            raise ConfigError("the data set has no examples; there is nothing to train on")
        self._stretch = np.repeat(np.arange(len(stretches)), stretches)
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
        if not len(self._stretch):
            return generator.permutation(indices)
        rank = generator.permutation(int(self._stretch[-1]) + 1)
        near = indices[np.argsort(rank[self._stretch[indices]], kind="stable")]
        parts = range(0, count, MIXED)
        return np.concatenate([generator.permutation(near[part : part + MIXED]) for part in parts])


class Grouped(Order):
    """The same draws, arranged so that the examples of a batch have one extent, as far as that goes.

    An epoch's worth of steps (but never more than some ARRANGED draws) is looked at together: the draws of each extent
    fill whole batches; what is left over of all extents, sorted by it, fills the rest, which are padded. No draw is
    lost or repeated, and which batch comes when follows from the seed and the number of the step alone. Our own
    proposal; the published training pads every batch.

    Args:
        extent: (index, the draw's random numbers) -> the extent that the example's data will have.
    """

    def __init__(
        self,
        weights: list[float],
        seed: int,
        stretches: Sequence[int] = (),
        *,
        extent: Callable[[int, random.Random], Extent],
    ) -> None:
        super().__init__(weights, seed, stretches)
        self._extent = extent
        # arranging more than is mixed would call for examples from everywhere again
        self._together = min(len(weights), MIXED if len(stretches) else ARRANGED)
        self._window, self._batches = (-1, 0), list[list[Draw]]()

    def step(self, step: int, batch: int) -> list[Draw]:
        """The `batch` examples of one step, the first step being 0."""
        length = max(-(-self._together // batch), 1)
        window, within = divmod(step, length)
        if self._window != (window, batch):
            steps = range(window * length, (window + 1) * length)
            self._batches = self._arranged(
                [draw for one in steps for draw in Order.step(self, one, batch)], batch, window
            )
            self._window = (window, batch)
        return self._batches[within]

    def _arranged(self, draws: list[Draw], batch: int, window: int) -> list[list[Draw]]:
        groups: dict[Extent, list[Draw]] = {}
        for draw in draws:
            groups.setdefault(self._extent(draw.index, draw.python()), []).append(draw)
        batches: list[list[Draw]] = []
        rest: list[Draw] = []
        for extent in sorted(groups, key=lambda one: (math.prod(one), one)):
            group = groups[extent]
            whole = len(group) - len(group) % batch
            batches += [group[k : k + batch] for k in range(0, whole, batch)]
            rest += group[whole:]
        batches += [rest[k : k + batch] for k in range(0, len(rest), batch)]
        if len(groups) > 1:
            random.Random(_seed_of(self._seed, -1, window)).shuffle(batches)
        return batches


def order_of(dataset: Dataset, seed: int) -> Order:
    """The order of a data set, by what it says of itself: `weight`, and where it has them `stretches` and `extent`."""
    weights = [dataset.weight(index) for index in range(len(dataset))]
    stretches = dataset.stretches() if hasattr(dataset, "stretches") else ()
    if hasattr(dataset, "extent"):
        return Grouped(weights, seed, stretches, extent=dataset.extent)
    return Order(weights, seed, stretches)


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
