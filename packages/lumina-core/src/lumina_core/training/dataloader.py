"""Which example comes when: decided by (seed, epoch, place) alone; neither workers nor ranks change anything."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from lumina_core.conditioning.ops import choose, condition_to
from lumina_core.errors import ConfigError
from lumina_core.model import Model, encode_conditions
from lumina_core.protocols import Conditioner, Dataset
from lumina_core.sampling.resolve import empty_tokens
from lumina_core.training.cache import LatentCache
from lumina_core.types import Batch, Size, Tokens, stack_tokens

SHUFFLE_BUFFER = 2**12
"""Examples shuffled among each other where some are cheaply read together: what a shuffle buffer would hold."""

BUCKET_WINDOW = 2**16
"""Draws at most that are looked at together to make batches of one extent."""


@dataclass(frozen=True)
class SampleKey:
    """One example of one step: what to read, and the seed of all that is drawn at random for it."""

    index: int
    seed: int

    def python_rng(self) -> random.Random:
        """For crops and the choice of a caption."""
        return random.Random(self.seed)

    def torch_generator(self) -> torch.Generator:
        """For times, noise and dropped conditions; always on the CPU, so that devices agree."""
        return torch.Generator().manual_seed(self.seed)


class EpochSampler:
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

    def __init__(self, weights: list[float], seed: int, read_groups: Sequence[int] = ()) -> None:
        if not weights:
            raise ConfigError("the data set has no examples; there is nothing to train on")
        self._group_ids = np.repeat(np.arange(len(read_groups)), read_groups)
        self._cumulative_weights = np.cumsum(np.asarray(weights, dtype=np.float64))
        self._seed = seed
        self._epoch, self._indices = -1, np.zeros(0, dtype=np.int64)

    def step_keys(self, step: int, batch_size: int) -> list[SampleKey]:
        """The `batch` examples of one step, the first step being 0."""
        return [self._key_at(position) for position in range(step * batch_size, (step + 1) * batch_size)]

    def rank_keys(self, step: int, batch_size: int, rank: int, world_size: int) -> list[SampleKey]:
        """The examples of one process among `world`: every world-th, beginning with its rank."""
        return self.step_keys(step, batch_size)[rank::world_size]

    def _key_at(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, len(self._cumulative_weights))
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self._shuffle_epoch(epoch)
        return SampleKey(int(self._indices[offset]), _derive_seed(self._seed, epoch, offset))

    def _shuffle_epoch(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self._seed, epoch])
        count = len(self._cumulative_weights)
        ticks = (np.arange(count) + generator.random()) * (self._cumulative_weights[-1] / count)
        indices = np.searchsorted(self._cumulative_weights, ticks, side="right").clip(max=count - 1)
        if not len(self._group_ids):
            return generator.permutation(indices)
        group_rank = generator.permutation(int(self._group_ids[-1]) + 1)
        grouped = indices[np.argsort(group_rank[self._group_ids[indices]], kind="stable")]
        chunk_starts = range(0, count, SHUFFLE_BUFFER)
        return np.concatenate(
            [generator.permutation(grouped[chunk : chunk + SHUFFLE_BUFFER]) for chunk in chunk_starts]
        )


class BucketSampler(EpochSampler):
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
        read_groups: Sequence[int] = (),
        *,
        size_of: Callable[[int, random.Random], Size],
    ) -> None:
        super().__init__(weights, seed, read_groups)
        self._size_of = size_of
        # arranging more than is mixed would call for examples from everywhere again
        self._window_size = min(len(weights), SHUFFLE_BUFFER if len(read_groups) else BUCKET_WINDOW)
        self._window, self._batches = (-1, 0), list[list[SampleKey]]()

    def step_keys(self, step: int, batch_size: int) -> list[SampleKey]:
        """The `batch` examples of one step, the first step being 0."""
        window_steps = max(-(-self._window_size // batch_size), 1)
        window, offset = divmod(step, window_steps)
        if self._window != (window, batch_size):
            steps = range(window * window_steps, (window + 1) * window_steps)
            self._batches = self._bucket_batches(
                [key for one in steps for key in EpochSampler.step_keys(self, one, batch_size)], batch_size, window
            )
            self._window = (window, batch_size)
        return self._batches[offset]

    def _bucket_batches(self, keys: list[SampleKey], batch_size: int, window: int) -> list[list[SampleKey]]:
        buckets: dict[Size, list[SampleKey]] = {}
        for key in keys:
            buckets.setdefault(self._size_of(key.index, key.python_rng()), []).append(key)
        batches: list[list[SampleKey]] = []
        leftover: list[SampleKey] = []
        for size in sorted(buckets, key=lambda one: (math.prod(one), one)):
            bucket = buckets[size]
            full = len(bucket) - len(bucket) % batch_size
            batches += [bucket[k : k + batch_size] for k in range(0, full, batch_size)]
            leftover += bucket[full:]
        batches += [leftover[k : k + batch_size] for k in range(0, len(leftover), batch_size)]
        if len(buckets) > 1:
            random.Random(_derive_seed(self._seed, -1, window)).shuffle(batches)
        return batches


def make_sampler(dataset: Dataset, seed: int) -> EpochSampler:
    """The order of a data set, by what it says of itself: `weight`, and where it has them `stretches` and `extent`."""
    weights = [dataset.weight(index) for index in range(len(dataset))]
    read_groups = dataset.read_groups()
    if dataset.variable_size:
        return BucketSampler(weights, seed, read_groups, size_of=dataset.size)
    return EpochSampler(weights, seed, read_groups)


def _derive_seed(seed: int, epoch: int, position: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepSampler:
    """Reads the examples of one step at a time; what a DataLoader iterates over, with or without worker processes."""

    def __init__(
        self, sampler: EpochSampler, start: int, stop: int, batch_size: int, rank_and_world_size: tuple[int, int]
    ) -> None:
        self._sampler, self._steps, self._batch_size, self._rank_and_world_size = (
            sampler,
            range(start, stop),
            batch_size,
            rank_and_world_size,
        )

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in self._steps:
            yield self._sampler.rank_keys(step, self._batch_size, *self._rank_and_world_size)


@dataclass(frozen=True)
class RawBatch:
    """What was read for one step: data of each item, the values of each conditioner, and the draws they came from."""

    data: tuple[Tensor, ...]
    values: Mapping[str, tuple[Any, ...]]
    keys: tuple[SampleKey, ...]

    def microbatch(self, rows: slice) -> RawBatch:
        """Some of the items, for gradient accumulation."""
        return RawBatch(self.data[rows], {name: v[rows] for name, v in self.values.items()}, self.keys[rows])


class StepDataset(TorchDataset[RawBatch]):
    """A data set asked for a whole step at once, so that worker processes hand over one object a step."""

    def __init__(self, dataset: Dataset, data_field: str, fields: Sequence[str]) -> None:
        self._dataset, self._data_field, self._fields = dataset, data_field, tuple(fields)

    def __getitem__(self, draws: Sequence[SampleKey]) -> RawBatch:
        read = [self._dataset.get(draw.index, draw.python_rng()) for draw in draws]
        missing = sorted({self._data_field, *self._fields} - set(read[0]))
        if missing:
            raise ConfigError(f"the data set's examples have no field '{missing[0]}'; they have: {', '.join(read[0])}")
        values = {field: tuple(example[field] for example in read) for field in self._fields}
        return RawBatch(tuple(example[self._data_field] for example in read), values, tuple(draws))


def collate(
    model: Model,
    raw_batch: RawBatch,
    generators: Sequence[torch.Generator],
    cond_dropout: float,
    conditioners: Mapping[str, Conditioner] | None = None,
    latent_cache: LatentCache | None = None,
) -> Batch:
    """Encode, tokenise and condition what was read, on the model's device.

    Args:
        generators: one an item; a number is drawn from each for whether its conditions are dropped.
        drop: share of the items that are told nothing.
        speakers: the conditioners, some of them with a memory; None: the model's own.
        latents: a memory of what was encoded; None: everything is encoded anew, a batch at once.
    """
    active_conditioners = model.conditioners_by_field if conditioners is None else conditioners
    tokens = encode_to_tokens(model, raw_batch.data, latent_cache)
    condition = encode_conditions(active_conditioners, raw_batch.values, len(raw_batch.keys))
    keep_mask = torch.stack([torch.rand((), generator=generator) for generator in generators]) >= cond_dropout
    if not bool(keep_mask.all()):
        condition = choose(
            keep_mask.to(model.device), condition, encode_conditions(active_conditioners, {}, len(raw_batch.keys))
        )
    return Batch(tokens, condition_to(condition, model.device))


def check_data_sizes(model: Model, dataset: Dataset) -> None:
    """Raise ConfigError, before a run begins, if the data set says that it has a size which the model cannot do."""
    # what is rebuilt is never cut into tokens
    if hasattr(model.objective, "autoencoder_loss"):
        return
    for size in dataset.sizes():
        try:
            empty_tokens(model, size, 1)
        except ConfigError as error:
            raise ConfigError(f"the data set brings data of {' x '.join(map(str, size))}: {error}") from error


def encode_to_tokens(model: Model, data: Sequence[Tensor], latent_cache: LatentCache | None = None) -> Tokens:
    """Data of one size as one batch of tokens; of several sizes padded and masked."""
    device = model.device
    with torch.no_grad():
        if latent_cache is not None:
            cached = latent_cache.encode(data, device)
            if all(latent.shape == cached[0].shape for latent in cached):
                return model.tokenizer.patchify(torch.cat(cached))
            return stack_tokens([model.tokenizer.patchify(latent) for latent in cached])
        if all(item.shape == data[0].shape for item in data):
            return model.tokenizer.patchify(model.autoencoder.encode(torch.stack(list(data)).to(device)))
        encoded = [model.autoencoder.encode(item[None].to(device)) for item in data]
        return stack_tokens([model.tokenizer.patchify(latent) for latent in encoded])
