"""Conditions put together: several doors of one item, several items of one batch, or silence in place of some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    if len(spoken) > 1 and any(c.shares is not None for c in spoken):
        raise ShapeError("a memory that is read by regions cannot be joined with another conditioner's")
    summaries = [c.summary for c in conditions if c.summary is not None]
    return Condition(
        memory=torch.cat([_memory(c) for c in spoken], dim=1) if spoken else None,
        memory_mask=torch.cat([_mask(c) for c in spoken], dim=1)
        if any(c.memory_mask is not None for c in spoken)
        else None,
        summary=torch.cat(summaries, dim=1) if summaries else None,
        context=contexts[0] if contexts else None,
        shares=spoken[0].shares if spoken else None,
    )


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch of several, in order; shorter memories are padded and masked; a mask is made only where needed."""
    if len(conditions) == 1:
        return conditions[0]
    conditions = _of_as_many_regions(conditions)
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
        shares=torch.cat([c.shares for c in with_memory if c.shares is not None])
        if any(c.shares is not None for c in with_memory)
        else None,
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
        shares=_rows(condition.shares, places),
    )


def in_regions(conditions: Sequence[Condition], shares: Tensor, whole: Condition | None = None) -> Condition:
    """One condition whose memory is read by regions: that of the r-th where and as much as its share says.

    Args:
        conditions: one a region, each of the same batch B, with a memory.
        shares: (R, N) or (B, R, N) float, how much each region's answer counts at each token.
        whole: what summary and context are taken from; None: the first region.
    """
    if shares.shape[-2] != len(conditions):
        raise ShapeError(f"{len(conditions)} regions are described; shares are given for {shares.shape[-2]}")
    if any(c.memory is None for c in conditions):
        raise ShapeError("a region must have something to read; one of these conditions has no memory")
    length = max(_memory(c).shape[1] for c in conditions)
    rest = conditions[0] if whole is None else whole
    memory = torch.cat([_lengthened(_memory(c), length) for c in conditions], dim=1)
    every = all(c.memory_mask is None and _memory(c).shape[1] == length for c in conditions)
    mask = None if every else torch.cat([_lengthened(_mask(c), length) for c in conditions], dim=1)
    spread = shares.to(memory).expand(memory.shape[0], -1, -1)
    return Condition(memory, mask, rest.summary, rest.context, spread)


def _of_as_many_regions(conditions: Sequence[Condition]) -> list[Condition]:
    """The same conditions, with empty regions behind those that have fewer; left alone where none has any."""
    most = max((c.shares.shape[1] for c in conditions if c.shares is not None), default=0)
    if not most:
        return list(conditions)
    tokens = next(c.shares.shape[2] for c in conditions if c.shares is not None)
    length = max(_memory(c).shape[1] // (1 if c.shares is None else c.shares.shape[1]) for c in conditions)
    return [_with_regions(c, most, length, tokens) for c in conditions]


def _with_regions(condition: Condition, regions: int, length: int, tokens: int) -> Condition:
    memory, mask = _memory(condition), _mask(condition)
    shares = memory.new_ones(len(memory), 1, tokens) if condition.shares is None else condition.shares
    if condition.shares is not None and shares.shape[2] != tokens:
        raise ShapeError(f"regions of one batch must be of as many tokens; got {shares.shape[2]} and {tokens}")
    apart = [_lengthened(part, length) for part in memory.chunk(shares.shape[1], dim=1)]
    masks = [_lengthened(part, length) for part in mask.chunk(shares.shape[1], dim=1)]
    return replace(
        condition,
        memory=_lengthened(torch.cat(apart, dim=1), regions * length),
        memory_mask=_lengthened(torch.cat(masks, dim=1), regions * length),
        shares=_lengthened(shares, regions),
    )


def fitted(condition: Condition, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
    """The same on a device and in a number format, for conditioners that stand elsewhere or speak in another."""
    context = condition.context
    return Condition(
        memory=None if condition.memory is None else condition.memory.to(device, dtype),
        memory_mask=None if condition.memory_mask is None else condition.memory_mask.to(device),
        summary=None if condition.summary is None else condition.summary.to(device, dtype),
        context=None if context is None else _token_place(context, device, dtype),
        shares=None if condition.shares is None else condition.shares.to(device, dtype),
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
