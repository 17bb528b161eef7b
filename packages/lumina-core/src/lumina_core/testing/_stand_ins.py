"""Stand-ins: the plainest part of each kind, so that one part can be tried within a whole model."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.files import whole_file
from lumina_core.request import Request
from lumina_core.types import Condition, Extent, Tokens

ROWS = 16
"""Different things that a stand-in for a conditioner can tell apart."""


class Cells:
    """Tokenizer: one token a place of the latent, whatever its number of axes (at most three)."""

    def __init__(self, channels: int) -> None:
        self.width = channels

    def tokens(self, latent: Tensor) -> Tokens:
        """(B, C, ...) -> (B, places, C)."""
        places = self.blank(len(latent), tuple(latent.shape[2:]))
        return places.with_values(latent.flatten(2).transpose(1, 2).contiguous())

    def latent(self, tokens: Tokens) -> Tensor:
        """(B, places, C) -> (B, C, ...)."""
        latent: Tensor = tokens.values.transpose(1, 2).unflatten(2, tokens.extents[0])
        return latent

    def blank(self, batch: int, extent: Extent) -> Tokens:
        """The place along each axis is the token's position."""
        if len(extent) > 3:
            raise ShapeError(f"tokens have three axes, and a latent of the sizes {extent} has {len(extent)}")
        axes = torch.meshgrid(*(torch.arange(float(size)) for size in extent), indexing="ij")
        table = torch.stack([*(axis.flatten() for axis in axes)], dim=-1)
        table = torch.nn.functional.pad(table, (0, 3 - len(extent)))
        return Tokens(torch.zeros(batch, len(table), self.width), table.expand(batch, -1, -1), (extent,) * batch)


class Plain:
    """Autoencoder: data are their own latent."""

    def __init__(self, channels: int, axes: int) -> None:
        self.channels, self.stride = channels, (1,) * axes

    def encode(self, data: Tensor) -> Tensor:
        """The same."""
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """The same."""
        return latent


class Said(nn.Module):
    """Conditioner: a row of a table for whatever is said, as memory, summary or both."""

    def __init__(self, memory_width: int, summary_width: int) -> None:
        super().__init__()
        self.memory_width, self.summary_width = memory_width, summary_width
        self.table = nn.Embedding(ROWS, 2 * memory_width + summary_width)

    def encode(self, values: Sequence[Any]) -> Condition:
        """Two entries of memory and one summary a value."""
        return self._rows([1 + zlib.crc32(repr(value).encode()) % (ROWS - 1) for value in values])

    def nothing(self, batch: int) -> Condition:
        """The first row."""
        return self._rows([0] * batch)

    def _rows(self, numbers: list[int]) -> Condition:
        rows = self.table(torch.tensor(numbers))
        memory, summary = rows.split((2 * self.memory_width, self.summary_width), dim=1)
        return Condition(
            memory=memory.unflatten(1, (2, self.memory_width)) if self.memory_width else None,
            summary=summary if self.summary_width else None,
        )


class Echo:
    """Task: data of one extent; what is said of each is a value for the conditioner called `said`."""

    class Request(Request):
        """What is said, if anything."""

        said: Any = None

    class Config(Settings):
        """Nothing to choose."""

    data_field, suffix = "data", ".txt"

    def __init__(self, extent: Extent) -> None:
        self._extent = extent

    def extent(self, request: Any) -> Extent:
        """Always the same."""
        return self._extent

    def trained(self) -> Extent:
        """Half of it, so that every canvas is larger than trained."""
        return tuple(max(1, size // 2) for size in self._extent)

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """What was said, if anything."""
        return {} if request.said is None else {"said": [request.said]}

    def silences(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """Nothing to stay away from."""
        return {}

    def save(self, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """Numbers and record as text."""
        with whole_file(path) as partial:
            partial.write_text(f"{dict(record)}\n{item.tolist()}\n", encoding="utf-8")

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """The first item."""
        self.save(items[0], folder / f"{name}.txt", {})
        return folder / f"{name}.txt"
