"""What a batch is told: said by its requests, or handed over ready-made (conditions, noise)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.conditions import fitted, pooled, select
from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.types import Condition, Tokens, check_shape


@dataclass(frozen=True)
class Given:
    """What is not made from the requests but handed over.

    Conditions are of one item for all results, of one a request, or of one a result (requests one after another, each
    with its `count`). A memory without the summary that its model wants gets its mean, as in the published models.

    Attributes:
        said: instead of what the requests say.
        silent: instead of their negatives, or of silence; of any length, whatever the length of the other.
        noise: latents to begin from, (results, channels, ...), instead of those drawn by the seeds.
        data: data to begin from, (1 or results, channels, ...) in [-1, 1], with as much noise as `strength` says.
        strength: of the change to `data`, in 0..1; 1 keeps nothing of it.
        weaker: a model of the same tokens whose answer to the same words takes silence's place (autoguidance, arXiv
            2406.02507).
    """

    said: Condition | None = None
    silent: Condition | None = None
    noise: Tensor | None = None
    data: Tensor | None = None
    strength: float = 1.0
    weaker: Model | None = None


NOTHING_GIVEN = Given()


def condition_of(model: Model, requests: Sequence[Request], given: Given) -> Condition:
    """What is said of all results.

    Raises:
        ConfigError: what is given is for another number of results.
    """
    return _chosen(model, given.said, lambda: _asked(model, model.task.conditions, requests), _places(requests))


def silence_of(model: Model, requests: Sequence[Request], given: Given) -> Condition:
    """What all results stay away from: their negatives, or silence.

    Raises:
        ConfigError: what is given is for another number of results.
    """
    return _chosen(model, given.silent, lambda: _asked(model, model.task.silences, requests), _places(requests))


class Draws:
    """Standard normal noise for tokens (B, N, D), each item's from the generator of its own seed; zeros for padding.

    Drawn on the CPU: neither the device nor the neighbours of a batch change it.

    Args:
        places: blank tokens on the CPU.
    """

    def __init__(self, places: Tokens, seeds: Sequence[int], device: torch.device) -> None:
        self.device, length = device, places.values.shape[1]
        self.lengths = [length] * len(seeds) if places.mask is None else places.mask.sum(dim=1).tolist()
        self.length, self.width = length, places.values.shape[2]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """(B, N, D), other numbers each time."""
        drawn = [
            F.pad(torch.randn(length, self.width, generator=generator), (0, 0, 0, self.length - length))
            for length, generator in zip(self.lengths, self.generators, strict=True)
        ]
        return torch.stack(drawn).to(self.device, non_blocking=True)


def noise_of(model: Model, given: Given, draws: Draws) -> Tensor:
    """What the way begins from: the given noise, or the first draw.

    Raises:
        ConfigError: not every value is a number.
        ShapeError: the given latents are of another size or number.
    """
    first = draws()
    if given.noise is None:
        return first
    values = model.tokenizer.tokens(given.noise.float().to(model.device)).values
    check_values(values, first.shape, "the given noise")
    return values


def check_values(values: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ShapeError unless given tokens have that shape, ConfigError unless they are numbers throughout."""
    check_shape(values, shape, f"{what}, cut into tokens,")
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ConfigError(f"{wrong} of the {values.numel()} values of {what} are no numbers (NaN or infinite)")


def _places(requests: Sequence[Request]) -> Tensor:
    return torch.tensor([row for row, request in enumerate(requests) for _ in range(request.count)])


def _chosen(model: Model, given: Condition | None, ask: Callable[[], Condition], places: Tensor) -> Condition:
    if given is None:
        return select(ask(), places)
    items = _items(given)
    requests = int(places[-1]) + 1
    rows = {1: torch.zeros_like(places), requests: places, len(places): torch.arange(len(places))}
    if items not in rows:
        raise ConfigError(
            f"a condition of {items} items was given; wanted 1, one a request ({requests}) or one a result "
            f"({len(places)})"
        )
    return fitted(select(_completed(model, given), rows[items]), model.device, model.dtype)


def _completed(model: Model, given: Condition) -> Condition:
    wanted = sum(speaker.summary_width for speaker in model.speakers.values())
    if given.summary is not None or given.memory is None or wanted != given.memory.shape[-1]:
        return given
    summary = pooled(given.memory.float(), given.memory_mask)
    return replace(given, summary=summary)


def _items(condition: Condition) -> int:
    tensors = (condition.memory, condition.summary, None if condition.context is None else condition.context.values)
    return next((len(tensor) for tensor in tensors if tensor is not None), 1)


def _asked(model: Model, ask: Callable[[Any], Mapping[str, Sequence[Any]]], requests: Sequence[Request]) -> Condition:
    answers = [ask(request) for request in requests]
    fields = {field for answer in answers for field in answer}
    lacking = [field for field in fields if any(field not in answer for answer in answers)]
    if lacking:
        raise ConfigError(f"requests of one batch must all say something for '{lacking[0]}', or none of them")
    values = {field: [value for answer in answers for value in answer[field]] for field in sorted(fields)}
    return model.condition(values, len(requests))
