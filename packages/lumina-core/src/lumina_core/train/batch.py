"""Examples -> Batch: data encoded without gradient, cut into tokens, conditioned, some conditions dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from lumina_core.conditions import choose, fitted
from lumina_core.errors import ConfigError
from lumina_core.model import Model, spoken
from lumina_core.parts import Conditioner, Dataset
from lumina_core.sampling.way import blank_tokens
from lumina_core.train.latents import KeptLatents
from lumina_core.train.order import Draw
from lumina_core.types import Batch, Tokens, stack_tokens


@dataclass(frozen=True)
class Raw:
    """What was read for one step: data of each item, the values of each conditioner, and the draws they came from."""

    data: tuple[Tensor, ...]
    values: Mapping[str, tuple[Any, ...]]
    draws: tuple[Draw, ...]

    def part(self, rows: slice) -> Raw:
        """Some of the items, for gradient accumulation."""
        return Raw(self.data[rows], {name: v[rows] for name, v in self.values.items()}, self.draws[rows])


class Examples(TorchDataset[Raw]):
    """A data set asked for a whole step at once, so that worker processes hand over one object a step."""

    def __init__(self, dataset: Dataset, data_field: str, fields: Sequence[str]) -> None:
        self._dataset, self._data_field, self._fields = dataset, data_field, tuple(fields)

    def __getitem__(self, draws: Sequence[Draw]) -> Raw:
        read = [self._dataset.example(draw.index, draw.python()) for draw in draws]
        missing = sorted({self._data_field, *self._fields} - set(read[0]))
        if missing:
            raise ConfigError(f"the data set's examples have no field '{missing[0]}'; they have: {', '.join(read[0])}")
        values = {field: tuple(example[field] for example in read) for field in self._fields}
        return Raw(tuple(example[self._data_field] for example in read), values, tuple(draws))


def make_batch(
    model: Model,
    raw: Raw,
    generators: Sequence[torch.Generator],
    drop: float,
    speakers: Mapping[str, Conditioner] | None = None,
    latents: KeptLatents | None = None,
) -> Batch:
    """Encode, tokenise and condition what was read, on the model's device.

    Args:
        generators: one an item; a number is drawn from each for whether its conditions are dropped.
        drop: share of the items that are told nothing.
        speakers: the conditioners, some of them with a memory; None: the model's own.
        latents: a memory of what was encoded; None: everything is encoded anew, a batch at once.
    """
    asked = model.speakers if speakers is None else speakers
    tokens = tokenised(model, raw.data, latents)
    condition = spoken(asked, raw.values, len(raw.draws))
    kept = torch.stack([torch.rand((), generator=generator) for generator in generators]) >= drop
    if not bool(kept.all()):
        condition = choose(kept.to(model.device), condition, spoken(asked, {}, len(raw.draws)))
    return Batch(tokens, fitted(condition, model.device))


def check_extents(model: Model, dataset: Dataset) -> None:
    """Raise ConfigError, before a run begins, if the data set says that it has a size which the model cannot do."""
    # what is rebuilt is never cut into tokens
    if not hasattr(dataset, "extents") or hasattr(model.objective, "rebuild"):
        return
    for extent in dataset.extents():
        try:
            blank_tokens(model, extent, 1)
        except ConfigError as error:
            raise ConfigError(f"the data set brings data of {' x '.join(map(str, extent))}: {error}") from error


def tokenised(model: Model, data: Sequence[Tensor], latents: KeptLatents | None = None) -> Tokens:
    """Data of one size as one batch of tokens; of several sizes padded and masked."""
    device = model.device
    with torch.no_grad():
        if latents is not None:
            kept = latents.encode(data, device)
            if all(latent.shape == kept[0].shape for latent in kept):
                return model.tokenizer.tokens(torch.cat(kept))
            return stack_tokens([model.tokenizer.tokens(latent) for latent in kept])
        if all(item.shape == data[0].shape for item in data):
            return model.tokenizer.tokens(model.autoencoder.encode(torch.stack(list(data)).to(device)))
        encoded = [model.autoencoder.encode(item[None].to(device)) for item in data]
        return stack_tokens([model.tokenizer.tokens(latent) for latent in encoded])
