"""Conditions put together: several doors of one item, several items of one batch, or silence in place of some."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina_core.errors import ShapeError
from lumina_core.types import Condition, Tokens, stack_tokens


def join(conditions: Sequence[Condition]) -> Condition:
    """What several conditioners say of the same items: memories one after another, summaries side by side.

    Raises:
        ShapeError: two of them bring context tokens, or memories of different widths.
    """
    if len(conditions) == 1:
        return conditions[0]
    contexts = [c.context for c in conditions if c.context is not None]
    widths = {c.memory.shape[-1] for c in conditions if c.memory is not None}
    if len(contexts) > 1 or len(widths) > 1:
        raise ShapeError(
            f"conditioners must agree: got {len(contexts)} contexts (at most 1) "
            f"and memory widths {sorted(widths)} (at most 1)"
        )
    spoken = [c for c in conditions if c.memory is not None]
    summaries = [c.summary for c in conditions if c.summary is not None]
    return Condition(
        memory=torch.cat([_memory(c) for c in spoken], dim=1) if spoken else None,
        memory_mask=torch.cat([_mask(c) for c in spoken], dim=1)
        if any(c.memory_mask is not None for c in spoken)
        else None,
        summary=torch.cat(summaries, dim=1) if summaries else None,
        context=contexts[0] if contexts else None,
    )


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch of several, in order; shorter memories are padded and masked; a mask is made only where needed."""
    if len(conditions) == 1:
        return conditions[0]
    with_memory = [c for c in conditions if c.memory is not None]
    with_context = [c.context for c in conditions if c.context is not None]
    summaries = [c.summary for c in conditions if c.summary is not None]
    if any(0 < n < len(conditions) for n in (len(with_memory), len(with_context), len(summaries))):
        raise ShapeError("conditions of one batch must come through the same doors (memory, summary, context)")
    memory, mask = _stacked_memory(with_memory) if with_memory else (None, None)
    return Condition(
        memory=memory,
        memory_mask=mask,
        summary=torch.cat(summaries) if summaries else None,
        context=stack_tokens(with_context) if with_context else None,
    )


def choose(first: Tensor, one: Condition, other: Condition) -> Condition:
    """Item by item, `one` where `first` (B,) bool is True and `other` elsewhere."""
    both = stack([one, other])
    batch = first.shape[0]
    places = torch.arange(batch, device=first.device)
    return select(both, torch.where(first, places, places + batch))


def select(condition: Condition, places: Tensor) -> Condition:
    """The items at `places` (B',) int64, in that order."""
    return Condition(
        memory=_rows(condition.memory, places),
        memory_mask=_rows(condition.memory_mask, places),
        summary=_rows(condition.summary, places),
        context=None if condition.context is None else _token_rows(condition.context, places),
    )


def fitted(condition: Condition, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
    """The same on a device and in a number format, for conditioners that stand elsewhere or speak in another."""
    context = condition.context
    return Condition(
        memory=None if condition.memory is None else condition.memory.to(device, dtype),
        memory_mask=None if condition.memory_mask is None else condition.memory_mask.to(device),
        summary=None if condition.summary is None else condition.summary.to(device, dtype),
        context=None if context is None else _token_place(context, device, dtype),
    )


def _token_place(tokens: Tokens, device: torch.device, dtype: torch.dtype | None) -> Tokens:
    mask = None if tokens.mask is None else tokens.mask.to(device)
    return Tokens(tokens.values.to(device, dtype), tokens.positions.to(device), tokens.extents, mask)


def _rows(tensor: Tensor | None, places: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.index_select(0, places.to(tensor.device))


def _token_rows(tokens: Tokens, places: Tensor) -> Tokens:
    extents = tuple(tokens.extents[place] for place in places.tolist())
    values, positions = tokens.values[places], tokens.positions[places]
    return Tokens(values, positions, extents, _rows(tokens.mask, places))


def _stacked_memory(conditions: Sequence[Condition]) -> tuple[Tensor, Tensor | None]:
    length = max(_memory(c).shape[1] for c in conditions)
    memory = torch.cat([_lengthened(_memory(c), length) for c in conditions])
    if all(c.memory_mask is None and _memory(c).shape[1] == length for c in conditions):
        return memory, None
    return memory, torch.cat([_lengthened(_mask(c), length) for c in conditions])


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[1]
    return (
        torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1) if missing else tensor
    )


def _memory(condition: Condition) -> Tensor:
    if condition.memory is None:
        raise ShapeError("a condition without memory has no memory to join")
    return condition.memory


def _mask(condition: Condition) -> Tensor:
    if condition.memory_mask is not None:
        return condition.memory_mask
    memory = _memory(condition)
    return torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)


def pooled(memory: Tensor, mask: Tensor | None) -> Tensor:
    """The summary of the published models: the mean (B, W') of the real entries of a memory (B, M, W')."""
    if mask is None:
        return memory.mean(dim=1)
    weight = mask.to(memory.dtype)[..., None]
    return (memory * weight).sum(dim=1) / weight.sum(dim=1)
