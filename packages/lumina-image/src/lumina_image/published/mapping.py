"""The tensors of a published Next-DiT <-> ours: the same numbers, some of them joined or in another order, unread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Changed, Piece, Weights, read, size
from lumina_core.weights.published import joined, taken_apart
from lumina_image.published import names


def from_original(weights: Weights, channels: int, patch: int) -> dict[str, Piece]:
    """Published tensors under our names, `backbone.*` and `head.*`; `pad_token` stays as it is called.

    Args:
        channels: of the latent (4).
        patch: side of a patch (2).

    Raises:
        CheckpointError: a name is unknown, or a part of a joined matrix is missing.
    """
    ours, rest = joined(weights, names.BLOCKS)
    ours |= {names.ours(name): piece for name, piece in rest.items()}
    return {
        name: _turned(piece, channels, patch, back=False) if name.startswith("head.linear.") else piece
        for name, piece in ours.items()
    }


def to_original(weights: Weights, channels: int, patch: int, *, imagenet: bool = False) -> dict[str, Piece]:
    """The exact inverse of `from_original`.

    Args:
        imagenet: name the norms as the ImageNet models do.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    theirs, rest = taken_apart(weights, names.BLOCKS)
    for name, piece in rest.items():
        turned = _turned(piece, channels, patch, back=True) if name.startswith("head.linear.") else piece
        theirs[names.original(name, imagenet)] = turned
    return theirs


def to_diffusers(weights: Weights) -> dict[str, Piece]:
    """The original layout -> diffusers' names; the query and its norm stand twice there."""
    return {theirs: piece for name, piece in weights.items() for theirs in names.in_diffusers(name)}


def from_diffusers(weights: Weights) -> dict[str, Piece]:
    """Diffusers' names (of today) -> the original layout.

    What stands there twice is compared when it is read: a model of this family has it once.
    """
    found: dict[str, dict[str, Piece]] = {}
    for name, piece in weights.items():
        found.setdefault(names.from_diffusers(name), {})[name] = piece
    return {name: _one(pieces) for name, pieces in found.items()}


def _one(pieces: dict[str, Piece]) -> Piece:
    first, *others = pieces.values()
    return Twins(tuple(pieces), first, others[0]) if others else first


ROOM = 1 << 20
"""Bytes of two tensors that are compared at once."""


@dataclass(frozen=True)
class Twins:
    """A tensor that is stored twice and must be the same both times."""

    names: tuple[str, ...]
    first: Piece
    second: Piece

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def into(self, target: Tensor) -> None:
        self.first.into(target)
        rows = self.shape[0]
        step = max(1, ROOM * rows // max(1, size(self)))
        for start in range(0, rows, step):  # in parts, so that the second is never there as a whole
            stop = min(start + step, rows)
            here = target[start:stop] if target.dtype == self.dtype else read(self.first.rows(start, stop))
            if not torch.equal(here, read(self.second.rows(start, stop))):
                raise CheckpointError(
                    f"{self.names[0]} and {self.names[1]} differ; models of this family have one tensor for both, "
                    "so this one was changed by something that does not know it"
                )

    def tensor(self) -> Tensor:
        return read(self)

    def rows(self, start: int, stop: int) -> Piece:
        return Changed(self, (stop - start, *self.shape[1:]), lambda whole: whole[start:stop])


def reordered(tensor: Tensor, channels: int, patch: int, back: bool = False) -> Tensor:
    """Rows of the final layer: (row, column, half and channel), as published <-> (half, channel, row, column)."""
    halves = tensor.shape[0] // (channels * patch * patch)
    published, tokens = (patch, patch, halves * channels), (halves * channels, patch, patch)
    if back:
        return tensor.reshape(*tokens, *tensor.shape[1:]).movedim(0, 2).flatten(0, 2).contiguous()
    return tensor.reshape(*published, *tensor.shape[1:]).movedim(2, 0).flatten(0, 2).contiguous()


def _turned(piece: Piece, channels: int, patch: int, back: bool) -> Piece:
    return Changed(piece, piece.shape, lambda tensor: reordered(tensor, channels, patch, back))
