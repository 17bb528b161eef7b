"""How large the results of a batch are: what was asked for, what the model can cut, and the places of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.sampling.known import fitting
from lumina_core.sampling.way import blank_tokens
from lumina_core.types import Extent, Tokens, stack_tokens


@dataclass(frozen=True)
class Sizes:
    """Of the results of a batch, one after another.

    Attributes:
        asked: sizes of the data that is handed back.
        filled: sizes that the model makes, each at least those asked for; the rest is cut off.
    """

    asked: tuple[Extent, ...]
    filled: tuple[Extent, ...]

    @property
    def alike(self) -> bool:
        """Whether all are made in one size."""
        return len(set(self.filled)) == 1

    def blank(self, model: Model) -> Tokens:
        """Tokens of zeros in the right places, on the CPU; shorter ones are padded at the end, under a mask.

        Raises:
            ConfigError: the model cannot do one of the sizes.
        """
        if self.alike:
            return blank_tokens(model, self.filled[0], len(self.filled))
        return stack_tokens([blank_tokens(model, extent, 1) for extent in self.filled])

    def data(self, model: Model, tokens: Tokens) -> Tensor:
        """Tokens -> data (B, channels, ...) as large as the largest that was asked for, zeros behind smaller ones."""
        decode, latent = model.autoencoder.decode, model.tokenizer.latent
        if self.alike:
            return self._cut(decode(latent(tokens)))
        items = tokens.items()
        made: dict[int, Tensor] = {}
        for extent in dict.fromkeys(self.filled):  # together what is of one size, as its neighbours do not matter
            rows = [row for row, filled in enumerate(self.filled) if filled == extent]
            made |= zip(rows, decode(latent(stack_tokens([items[row] for row in rows]))), strict=True)
        return self._cut(_padded([made[row] for row in range(len(items))]))

    def items(self, data: Tensor) -> list[Tensor]:
        """(B, channels, ...) -> each in its own size."""
        return [_within(item, asked) for item, asked in zip(data, self.asked, strict=True)]

    def _cut(self, data: Tensor) -> Tensor:
        largest = tuple(max(sides) for sides in zip(*self.asked, strict=True))
        if len(set(self.asked)) == 1:
            return data[(slice(None), slice(None), *map(slice, largest))]
        return _padded(self.items(data))


def sizes_of(model: Model, requests: Sequence[Request], filled_up: bool = False) -> Sizes:
    """The sizes of all results, of each request as many as its `count`.

    Args:
        filled_up: make the smallest size that the model can from the one asked for on, also where the task does not
            want that by itself (`fills_up`).
    """
    extents = [model.task.extent(request) for request in requests for _ in range(request.count)]
    if not (filled_up or getattr(model.task, "fills_up", False)):
        return Sizes(tuple(extents), tuple(extents))
    return Sizes(tuple(extents), tuple(fitting(model, extent) for extent in extents))


def one_size(extents: Sequence[Extent], what: str) -> Extent:
    """The size that all of these are.

    Raises:
        ConfigError: there are several; `what` says what wants one.
    """
    if len(set(extents)) > 1:
        several = ", ".join("x".join(map(str, extent)) for extent in dict.fromkeys(extents))
        raise ConfigError(f"{what} must be of one size; got {several}: ask for each size by itself")
    return extents[0]


def _within(item: Tensor, extent: Extent) -> Tensor:
    return item[(slice(None), *map(slice, extent))]


def _padded(items: Sequence[Tensor]) -> Tensor:
    shape = [max(sides) for sides in zip(*(item.shape for item in items), strict=True)]
    whole = items[0].new_zeros(len(items), *shape)
    for row, item in zip(whole, items, strict=True):
        _within(row, tuple(item.shape[1:])).copy_(item)
    return whole
