"""Tensors that are read when they are asked for, and models made of them that are carried from folder to folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Piece(Protocol):
    """A tensor that has not been read yet; its shape and its format are known."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def into(self, target: Tensor) -> None:
        """Fill a CPU tensor of the same shape, of any format and strides."""
        ...

    def tensor(self) -> Tensor:
        """The numbers as they are stored: a window on the file where that is possible, else read."""
        ...

    def rows(self, start: int, stop: int) -> Piece:
        """A part of the first dimension."""
        ...


Weights = Mapping[str, Piece]
"""Tensors by name, each read when it is asked for."""


def size(piece: Piece) -> int:
    """Bytes of a piece as it is stored."""
    return math.prod(piece.shape) * piece.dtype.itemsize


def read(piece: Piece, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers in memory of their own, in `dtype` (None: as they are stored)."""
    target = torch.empty(piece.shape, dtype=dtype or piece.dtype)
    piece.into(target)
    return target


@dataclass(frozen=True)
class Held:
    """A tensor that is in memory already."""

    held: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.held.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.held.dtype

    def into(self, target: Tensor) -> None:
        target.copy_(self.held)

    def tensor(self) -> Tensor:
        return self.held

    def rows(self, start: int, stop: int) -> Held:
        return Held(self.held[start:stop])


@dataclass(frozen=True)
class Joined:
    """Pieces side by side along a dimension."""

    pieces: Sequence[Piece]
    dim: int = 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        first = list(self.pieces[0].shape)
        first[self.dim] = sum(piece.shape[self.dim] for piece in self.pieces)
        return tuple(first)

    @property
    def dtype(self) -> torch.dtype:
        return self.pieces[0].dtype

    def into(self, target: Tensor) -> None:
        at = 0
        for piece in self.pieces:
            piece.into(target.narrow(self.dim, at, piece.shape[self.dim]))
            at += piece.shape[self.dim]

    def tensor(self) -> Tensor:
        return read(self)

    def rows(self, start: int, stop: int) -> Piece:
        at = 0
        for piece in self.pieces if self.dim == 0 else ():
            if at <= start and stop <= at + piece.shape[0]:
                return piece if (start, stop) == (at, at + piece.shape[0]) else piece.rows(start - at, stop - at)
            at += piece.shape[0]
        return Changed(self, (stop - start, *self.shape[1:]), lambda whole: whole[start:stop])


@dataclass(frozen=True)
class Changed:
    """Another piece whose numbers are put into another order."""

    piece: Piece
    shape: tuple[int, ...]
    change: Callable[[Tensor], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        return self.piece.dtype

    def into(self, target: Tensor) -> None:
        target.copy_(self.tensor())

    def tensor(self) -> Tensor:
        return self.change(read(self.piece))

    def rows(self, start: int, stop: int) -> Changed:
        return Changed(self.piece, (stop - start, *self.shape[1:]), lambda whole: self.change(whole)[start:stop])


@dataclass(frozen=True)
class Cast:
    """Another piece in another number format."""

    piece: Piece
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.piece.shape

    def into(self, target: Tensor) -> None:
        if target.dtype == self.dtype:
            self.piece.into(target)
        else:  # by way of this format, which may round
            target.copy_(self.tensor())

    def tensor(self) -> Tensor:
        return read(self)

    def rows(self, start: int, stop: int) -> Cast:
        return Cast(self.piece.rows(start, stop), self.dtype)


def in_format(weights: Weights, dtype: torch.dtype | None) -> Weights:
    """Floating pieces in `dtype`, others and None as they are."""
    if dtype is None:
        return weights
    return {n: Cast(p, dtype) if p.dtype.is_floating_point and p.dtype != dtype else p for n, p in weights.items()}


def as_bytes(tensor: Tensor) -> Any:
    """The bytes of a contiguous CPU tensor, as a numpy array that shares its memory."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


@dataclass(frozen=True)
class Unbuilt:
    """A model in a folder of somebody's, before anything is built or read.

    Attributes:
        recipe: plain data, as a recipe is written; what lies outside is named by `source` and `tokenizer`.
        weights: under our names, each read when it is asked for.
        kept: tensors that have no place in a model of ours; kept for the way back, under the foreign names.
        origin: plain data that the layout wants to find again on the way back.
        dtype: what its settings say of the weights' format, where they say something.
        notes: what the user should know of what was found, a line each.
    """

    recipe: Mapping[str, Any]
    weights: Weights
    kept: Weights = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """What a folder shall hold, before it is written.

    Attributes:
        weights: by their file's path in the folder, without `.safetensors`.
        files: contents by path.
        folders: folders that are copied, by the path that they get.
        whole: weights are never cut into shards.
        notes: what the user should know.
    """

    weights: Mapping[str, Weights]
    files: Mapping[str, bytes]
    folders: Mapping[str, Path] = field(default_factory=dict)
    whole: bool = False
    notes: tuple[str, ...] = ()
