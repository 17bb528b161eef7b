"""Examples of each step: stages of a training, their order, and loading into batches.

The examples of a step depend on the seed, the epoch and the index alone, not on the number of workers or processes.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from lumina_core.conditioning.ops import choose, condition_to
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.model import Model, build_dataset, empty_tokens, encode_conditions
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Conditioner, Dataset, Example, PredictionTask, SupportsAutoencoderLoss
from lumina_core.recipe import Recipe, TrainingConfig
from lumina_core.types import Batch, Size, Tokens, pad_to_length, stack_tokens

if TYPE_CHECKING:
    from lumina_core.training.cache import LatentCache

SHUFFLE_BUFFER = 2**12
"""Number of examples that are shuffled at a time if some of them are read together (`read_groups`)."""

BUCKET_WINDOW = 2**16
"""Largest number of examples that are sorted into batches of one size at a time."""


@dataclass(frozen=True)
class SampleKey:
    """One example of one step: its index in the data set, and the seed of all random numbers for it."""

    index: int
    seed: int

    def python_rng(self) -> random.Random:
        """Return the generator of crops and of the choice of a caption."""
        return random.Random(self.seed)

    def torch_generator(self) -> torch.Generator:
        """Return the generator of times, noise and dropped conditions; on the CPU, so that devices agree."""
        return torch.Generator().manual_seed(self.seed)


class EpochSampler:
    """Endless order of a weighted data set.

    An epoch has as many examples as the data set. Each example occurs by its share of the weights (systematic
    resampling: a share of 2.3 is 2 or 3 occurrences), shuffled. With equal weights, an epoch is a permutation.

    Args:
        weights: one positive number per example.
        seed: seed of the training.
        read_groups: lengths of consecutive runs of examples that are cheap to read together (a row group of a file);
            empty for none. Groups are shuffled, then the examples within SHUFFLE_BUFFER neighbours. As with a shuffle
            buffer, but computed from the index alone, so that every step can be resumed.

    Raises:
        ConfigError: there are no examples.
    """

    def __init__(self, weights: list[float], seed: int, read_groups: Sequence[int] = ()) -> None:
        if not weights:
            raise ConfigError("dataset: got no examples, expected at least one.")
        self._group_ids = np.repeat(np.arange(len(read_groups)), read_groups)
        self._cumulative_weights = np.cumsum(np.asarray(weights, dtype=np.float64))
        self._seed = seed
        self._epoch, self._indices = -1, np.zeros(0, dtype=np.int64)

    def step_keys(self, step: int, batch_size: int) -> list[SampleKey]:
        """Return the examples of one step (the first is 0)."""
        return [self._key_at(position) for position in range(step * batch_size, (step + 1) * batch_size)]

    def _key_at(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, len(self._cumulative_weights))
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self._shuffle_epoch(epoch)
        return SampleKey(int(self._indices[offset]), derive_seed(self._seed, epoch, offset))

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
    """The same examples, arranged so that those of a batch have one size where possible.

    The examples of an epoch (at most BUCKET_WINDOW) are sorted into batches of one size; the remainders of all sizes,
    in the order of the sizes, form the last batches, which are padded. No example is lost or repeated, and the batch of
    a step depends on the seed and the step alone. The published training pads every batch instead.

    Args:
        weights: one positive number per example.
        seed: seed of the training.
        read_groups: see `EpochSampler`.
        size_of: (index, random numbers of the example) -> size of the example's data: sides of a grid or the count of a
            set.
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
        # a window beyond the shuffle buffer would read from all groups at once
        self._window_size = min(len(weights), SHUFFLE_BUFFER if len(read_groups) else BUCKET_WINDOW)
        self._window, self._batches = (-1, 0), list[list[SampleKey]]()

    def step_keys(self, step: int, batch_size: int) -> list[SampleKey]:
        """Return the examples of one step (the first is 0)."""
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
            random.Random(derive_seed(self._seed, -1, window)).shuffle(batches)
        return batches


def make_sampler(dataset: Dataset, seed: int) -> EpochSampler:
    """Build the order of a data set from its weights, read groups and sizes."""
    weights = [dataset.weight(index) for index in range(len(dataset))]
    read_groups = dataset.read_groups()
    if dataset.variable_size:
        return BucketSampler(weights, seed, read_groups, size_of=dataset.size)
    return EpochSampler(weights, seed, read_groups)


def derive_seed(seed: int, epoch: int, position: int) -> int:
    """Return a seed for a position of an epoch; negative epochs are other uses."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Stage:
    """Some consecutive steps of a training, with data, batch size and learning rate of their own (image sizes).

    Attributes:
        start, stop: the first step, and the step behind the last one; the first step of a training is 0.
        dataset: its examples.
        global_batch_size: examples per step, over all processes.
        lr: peak learning rate.
        seed: seed of the order of its examples.
    """

    start: int
    stop: int
    dataset: Dataset
    global_batch_size: int
    lr: float
    seed: int


def stage_batch_sizes(training: TrainingConfig) -> list[int]:
    """Return the examples per step of each stage; of a training without stages, those of the training."""
    default = training.global_batch_size
    return [stage.global_batch_size or default for stage in training.stages] or [default]


def build_stages(recipe: Recipe, registry: Registry, dataset: Dataset | None = None) -> list[Stage]:
    """Build the stages of a training and their data sets; a training without stages is one.

    Args:
        recipe: its `training.stages` are built.
        registry: where data sets are found.
        dataset: examples instead of those of the recipe's data set.

    Raises:
        ConfigError: the recipe has no data set, or a stage changes options of the data set that was passed.
    """
    training = recipe.training
    if not training.stages:
        built = build_dataset(recipe, registry) if dataset is None else dataset
        return [Stage(0, training.steps, built, training.global_batch_size, training.lr, training.seed)]
    stages: list[Stage] = []
    start = 0
    for index, config in enumerate(training.stages):
        if dataset is not None and config.dataset:
            raise ConfigError(
                f"training.stages[{index}].dataset: got options, expected none for a data set that is given. "
                "Remove them, or name the data set in the recipe."
            )
        if dataset is not None:
            built = dataset
        elif not config.dataset and stages:
            built = stages[0].dataset if not training.stages[0].dataset else build_dataset(recipe, registry)
        else:
            built = build_dataset(with_dataset_options(recipe, index), registry)
        seed = training.seed if index == 0 else derive_seed(training.seed, -2, index)
        size = config.global_batch_size or training.global_batch_size
        stages.append(Stage(start, start + config.steps, built, size, config.lr or training.lr, seed))
        start += config.steps
    return stages


def with_dataset_options(recipe: Recipe, index: int) -> Recipe:
    """Return a recipe whose data set has the options of a stage.

    Raises:
        ConfigError: the recipe has no data set.
    """
    if recipe.dataset is None:
        raise ConfigError("dataset: got none, expected a data set, such as `dataset: {type: NAME, folder: DIR}`.")
    options = {**recipe.dataset.model_dump(), **recipe.training.stages[index].dataset}
    return recipe.model_copy(update={"dataset": ComponentSpec(**options)})


@dataclass(frozen=True)
class RawBatch:
    """Examples of one step as the data set returns them.

    Attributes:
        data: (channels, ...) in [-1, 1] per item.
        values: values by the field of each conditioner, one per item.
        keys: keys of the items in the data set.
        targets: targets of a prediction task, one per item; empty for generation.
    """

    data: tuple[Tensor, ...]
    values: Mapping[str, tuple[Any, ...]]
    keys: tuple[SampleKey, ...]
    targets: tuple[Any, ...] = ()

    def microbatch(self, rows: slice) -> RawBatch:
        """Return some of the items, for gradient accumulation."""
        values = {name: column[rows] for name, column in self.values.items()}
        return RawBatch(self.data[rows], values, self.keys[rows], self.targets[rows])


class StepDataset(TorchDataset[RawBatch]):
    """PyTorch data set whose items are batches of a step, so that a worker process returns one object per step."""

    def __init__(
        self, dataset: Dataset, data_field: str, fields: Sequence[str], target_field: str | None = None
    ) -> None:
        self._dataset, self._data_field = dataset, data_field
        self._fields, self._target_field = tuple(fields), target_field

    @classmethod
    def of_model(cls, dataset: Dataset, model: Model) -> StepDataset:
        """Read the fields of a model's task and conditioners."""
        target_field = model.task.target_field if isinstance(model.task, PredictionTask) else None
        return cls(dataset, model.task.data_field, list(model.conditioners_by_field), target_field)

    def __getitem__(self, keys: Sequence[SampleKey]) -> RawBatch:
        examples = [self._dataset.get(key.index, key.python_rng()) for key in keys]
        for example, key in zip(examples, keys, strict=True):
            self._check(example, key.index)
        return RawBatch(
            tuple(example[self._data_field] for example in examples),
            {field: tuple(example[field] for example in examples) for field in self._fields},
            tuple(keys),
            () if self._target_field is None else tuple(example[self._target_field] for example in examples),
        )

    def _check(self, example: Example, index: int) -> None:
        expected = [self._data_field, *self._fields, *([] if self._target_field is None else [self._target_field])]
        missing = [field for field in expected if field not in example]
        if missing:
            raise ConfigError(
                f"dataset[{index}]: got the fields {', '.join(example)}, expected {', '.join(expected)}. Add "
                f"'{missing[0]}' to the examples, or change the recipe's conditioners."
            )
        if not isinstance(example[self._data_field], Tensor):
            raise ConfigError(
                f"dataset[{index}]['{self._data_field}']: got {type(example[self._data_field]).__name__}, expected a "
                "float tensor (channels, ...) in [-1, 1]."
            )


def collate(
    model: Model,
    raw_batch: RawBatch,
    generators: Sequence[torch.Generator],
    cond_dropout: float,
    conditioners: Mapping[str, Conditioner] | None = None,
    latent_cache: LatentCache | None = None,
) -> Batch:
    """Encode examples as a batch on the model's device: tokens, condition and target.

    Args:
        model: its autoencoder, tokenizer and conditioners are used.
        raw_batch: examples.
        generators: one per item; each draws whether the item's conditions are dropped.
        cond_dropout: probability that an item's conditions are replaced by null conditions.
        conditioners: conditioners to use instead of the model's (those with a cache).
        latent_cache: cache of latents; None to encode the batch at once.
    """
    active_conditioners = model.conditioners_by_field if conditioners is None else conditioners
    tokens = encode_to_tokens(model, raw_batch.data, latent_cache)
    condition = encode_conditions(active_conditioners, raw_batch.values, len(raw_batch.keys))
    keep_mask = torch.stack([torch.rand((), generator=generator) for generator in generators]) >= cond_dropout
    if not bool(keep_mask.all()):
        condition = choose(
            keep_mask.to(model.device), condition, encode_conditions(active_conditioners, {}, len(raw_batch.keys))
        )
    target = torch.stack([torch.as_tensor(one) for one in raw_batch.targets]) if raw_batch.targets else None
    return Batch(tokens, condition_to(condition, model.device), None if target is None else target.to(model.device))


def check_data(model: Model, dataset: Dataset) -> RawBatch:
    """Check all that a training needs of its data: every size, and the first example of each data set of a mixture.

    Returns:
        These examples.

    Raises:
        ConfigError: the model does not support a size, or an example lacks a field or has other channels.
    """
    check_data_sizes(model, dataset)
    indices = dataset.first_indices()
    batch = StepDataset.of_model(dataset, model)[[SampleKey(index, 0) for index in indices]]
    for index, item in zip(indices, batch.data, strict=True):
        if item.ndim != batch.data[0].ndim or item.shape[0] != batch.data[0].shape[0]:
            raise ConfigError(
                f"dataset[{index}]: got data of the shape {tuple(item.shape)}, expected {batch.data[0].shape[0]} "
                f"channels and {batch.data[0].ndim} dimensions, as dataset[0] has."
            )
    return batch


def pad_batch(batch: Batch, length: int) -> Batch:
    """Pad the tokens of a batch to a length; the added ones are masked."""
    tokens, condition = batch.tokens, batch.condition
    if tokens.values.shape[1] == length:
        return batch
    values, positions, mask = (
        pad_to_length(one, length) for one in (tokens.values, tokens.positions, tokens.mask_or_ones())
    )
    names = ("token_condition", "token_positions")
    padded: dict[str, Any] = {
        name: pad_to_length(one, length) for name in names if (one := getattr(condition, name)) is not None
    }
    return Batch(Tokens(values, positions, tokens.sizes, mask), replace(condition, **padded), batch.target)


def check_data_sizes(model: Model, dataset: Dataset) -> None:
    """Check every size of a data set against the model.

    Raises:
        ConfigError: the model does not support one of the sizes.
    """
    # an autoencoder is trained on data, which no tokenizer patchifies
    if isinstance(model.objective, SupportsAutoencoderLoss):
        return
    for size in dataset.sizes():
        try:
            empty_tokens(model, size, 1)
        except ConfigError as error:
            raise ConfigError(f"dataset: got data of {' x '.join(map(str, size))}. {error}") from error


def encode_to_tokens(model: Model, data: Sequence[Tensor], latent_cache: LatentCache | None = None) -> Tokens:
    """Encode and patchify data. Items of several sizes are padded to the longest and masked."""
    device = model.device
    with torch.no_grad():
        if latent_cache is not None:
            latents = latent_cache.encode(data, device)
        elif all(item.shape == data[0].shape for item in data):
            return model.tokenizer.patchify(model.autoencoder.encode(torch.stack(list(data)).to(device)))
        else:
            latents = [model.autoencoder.encode(item[None].to(device)) for item in data]
        if all(latent.shape == latents[0].shape for latent in latents):
            return model.tokenizer.patchify(torch.cat(latents))
        return stack_tokens([model.tokenizer.patchify(latent) for latent in latents])
