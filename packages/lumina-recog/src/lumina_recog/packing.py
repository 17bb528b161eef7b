"""Packing: images of several sizes one after another in one sequence, with exact attention within each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import ShapeError
from lumina_core.models.attention import Segments
from lumina_core.models.dit import BlockInputs, DiTBackbone
from lumina_core.models.rope import MixedRope
from lumina_core.protocols import AttentionTransform
from lumina_core.types import Condition, Tokens
from lumina_recog.heads import ClassificationHead

DEFAULT_CAPACITY = 8192
"""Tokens of a pack. More tokens take more memory at once; speed hardly depends on it."""


@dataclass(frozen=True)
class Pack:
    """Several images as one sequence.

    Attributes:
        tokens: values (1, N, D) and positions (1, N, 3) of all images; `sizes` has one entry per image.
        segments: number of tokens of each image.
        indices: position of each image among those that were packed.
    """

    tokens: Tokens
    segments: Segments
    indices: tuple[int, ...]

    @property
    def waste(self) -> float:
        """Fraction of the tokens that is padding."""
        return 1 - sum(self.segments.lengths) / self.tokens.values.shape[1]


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute sequences over packs of at most `capacity` tokens: the longest first, each into the first with room.

    Args:
        lengths: tokens of each sequence, at least 1.
        capacity: most tokens of a pack.

    Returns:
        The indices of each pack. Every index occurs once.

    Raises:
        ShapeError: a sequence is empty or longer than a pack; nothing is cut.
    """
    for index, length in enumerate(lengths):
        if not 1 <= length <= capacity:
            raise ShapeError(
                f"image {index}: got {length} tokens, expected 1 to {capacity}, the capacity of a pack. Raise the "
                "capacity, or set max_tokens of the tokenizer."
            )
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        number = next((n for n, free in enumerate(room) if free >= lengths[index]), len(packs))
        if number == len(packs):
            packs.append([])
            room.append(capacity)
        packs[number].append(index)
        room[number] -= lengths[index]
    return packs


def pack(items: Sequence[Tokens], capacity: int | None = None, fixed_length: bool = False) -> list[Pack]:
    """Pack images, sorted by their number of tokens, so that images of one size are computed together.

    Args:
        items: one image each, of batch size 1 and without a mask, as a tokenizer's `patchify` returns them.
        capacity: most tokens of a pack; None: 8192, or those of the longest image.
        fixed_length: pad every pack to the capacity, for graphs of one shape; else a pack has no padding.

    Raises:
        ShapeError: an item is a batch or has a mask, or is longer than `capacity`.
    """
    for index, item in enumerate(items):
        if item.values.shape[0] != 1 or item.mask is not None:
            raise ShapeError(
                f"image {index}: got a batch of {item.values.shape[0]}, expected one image without a mask. Split it "
                "with Tokens.items()."
            )
    lengths = [item.values.shape[1] for item in items]
    capacity = max(DEFAULT_CAPACITY, *lengths) if capacity is None and lengths else capacity or DEFAULT_CAPACITY
    return [
        _concatenate([items[i] for i in indices], indices, capacity if fixed_length else 0)
        for indices in first_fit(lengths, capacity)
    ]


def _concatenate(items: Sequence[Tokens], indices: Sequence[int], min_length: int) -> Pack:
    values = torch.cat([item.values for item in items], dim=1)
    positions = torch.cat([item.positions for item in items], dim=1)
    padding = min_length - values.shape[1]
    if padding > 0:
        values = torch.cat([values, values.new_zeros(1, padding, values.shape[2])], dim=1)
        positions = torch.cat([positions, positions.new_zeros(1, padding, 3)], dim=1)
    sizes = tuple(size for item in items for size in item.sizes)
    lengths = tuple(item.values.shape[1] for item in items)
    return Pack(Tokens(values, positions, sizes), Segments(lengths), tuple(indices))


class BlockTransforms(Sequence[AttentionTransform]):
    """Rotary embeddings of every block, each computed when its block asks for it, and not kept."""

    def __init__(self, encoding: MixedRope, positions: Tensor, num_layers: int) -> None:
        self._encoding, self._positions, self._num_layers = encoding, positions, num_layers
        self._freqs = encoding.frequencies(positions.device)

    def __len__(self) -> int:
        return self._num_layers

    def __getitem__(self, index: Any) -> Any:
        freqs = tuple(axis[index : index + 1] for axis in self._freqs)
        return self._encoding(self._positions, freqs)[0]


def packed_states(backbone: DiTBackbone, one: Pack) -> Tensor:
    """Compute the hidden states (1, N, C) of a pack."""
    encoding, condition = backbone.position_encoding, Condition()
    if isinstance(encoding, MixedRope) and not torch.is_grad_enabled():
        # tables of all blocks at once would take most of the memory
        tables: Any = BlockTransforms(encoding, one.tokens.positions, backbone.num_layers)
        inputs = BlockInputs(tables, one.segments)
    else:
        inputs = replace(backbone.precompute(one.tokens, condition), mask=one.segments)
    states: Tensor = backbone(one.tokens, None, condition, precomputed=inputs).hidden_states
    return states


def packed_logits(
    backbone: DiTBackbone, head: ClassificationHead, items: Sequence[Tokens], capacity: int | None = None
) -> Tensor:
    """Compute the logits (B, K) of images of any sizes, in their order, by packs.

    They equal those of each image alone up to rounding. On CUDA in half precision, attention is torch's kernel for
    packed sequences (`varlen_attn`); elsewhere it is a loop over the images.

    Args:
        backbone: without time.
        head: classification head.
        items: one image each, see `pack`.
        capacity: most tokens of a pack; None: 8192, or those of the longest image.

    Raises:
        ShapeError: there are no images, or one is longer than `capacity`.
    """
    if not items:
        raise ShapeError("images: got none, expected at least one.")
    rows: dict[int, Tensor] = {}
    for one in pack(items, capacity):
        states = packed_states(backbone, one)
        logits = head.classify(head.pool(states, one.segments))
        rows |= dict(zip(one.indices, logits.unbind(0), strict=True))
    return torch.stack([rows[index] for index in range(len(items))])


def is_packable(backbone: Any, head: Any) -> bool:
    """Return whether backbone and head are of the classes that packs need."""
    return isinstance(backbone, DiTBackbone) and backbone.time_embed is None and isinstance(head, ClassificationHead)
