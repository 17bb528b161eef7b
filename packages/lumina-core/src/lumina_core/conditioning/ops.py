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
    references = [c.reference for c in conditions if c.reference is not None]
    widths = {c.context.shape[-1] for c in conditions if c.context is not None}
    if len(references) > 1 or len(widths) > 1:
        raise ShapeError(
            f"conditioners must agree: got {len(references)} contexts (at most 1) "
            f"and memory widths {sorted(widths)} (at most 1)"
        )
    with_context = [c for c in conditions if c.context is not None]
    if len(with_context) > 1 and any(c.region_weights is not None for c in with_context):
        raise ShapeError("a memory that is read by regions cannot be joined with another conditioner's")
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return Condition(
        context=torch.cat([_require_context(c) for c in with_context], dim=1) if with_context else None,
        context_mask=torch.cat([_context_mask(c) for c in with_context], dim=1)
        if any(c.context_mask is not None for c in with_context)
        else None,
        pooled=torch.cat(pooled, dim=1) if pooled else None,
        reference=references[0] if references else None,
        region_weights=with_context[0].region_weights if with_context else None,
    )


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch of several, in order; shorter memories are padded and masked; a mask is made only where needed."""
    if len(conditions) == 1:
        return conditions[0]
    conditions = _equalize_regions(conditions)
    context_conditions = [c for c in conditions if c.context is not None]
    references = [c.reference for c in conditions if c.reference is not None]
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    if any(0 < n < len(conditions) for n in (len(context_conditions), len(references), len(pooled))):
        raise ShapeError("conditions of one batch must come through the same doors (memory, summary, context)")
    context, mask = _stack_contexts(context_conditions) if context_conditions else (None, None)
    return Condition(
        context=context,
        context_mask=mask,
        pooled=torch.cat(pooled) if pooled else None,
        reference=stack_tokens(references) if references else None,
        region_weights=torch.cat([c.region_weights for c in context_conditions if c.region_weights is not None])
        if any(c.region_weights is not None for c in context_conditions)
        else None,
    )


def choose(mask: Tensor, if_true: Condition, if_false: Condition) -> Condition:
    """Item by item, `one` where `first` (B,) bool is True and `other` elsewhere."""
    both = stack([if_true, if_false])
    batch = mask.shape[0]
    rows = torch.arange(batch, device=mask.device)
    return select(both, torch.where(mask, rows, rows + batch))


def select(condition: Condition, index: Tensor) -> Condition:
    """The items at `places` (B',) int64, in that order."""
    return Condition(
        context=_select_rows(condition.context, index),
        context_mask=_select_rows(condition.context_mask, index),
        pooled=_select_rows(condition.pooled, index),
        reference=None if condition.reference is None else _select_token_rows(condition.reference, index),
        region_weights=_select_rows(condition.region_weights, index),
    )


def combine_regions(
    conditions: Sequence[Condition], region_weights: Tensor, base: Condition | None = None
) -> Condition:
    """One condition whose memory is read by regions: that of the r-th where and as much as its share says.

    Args:
        conditions: one a region, each of the same batch B, with a memory.
        shares: (R, N) or (B, R, N) float, how much each region's answer counts at each token.
        whole: what summary and context are taken from; None: the first region.
    """
    if region_weights.shape[-2] != len(conditions):
        raise ShapeError(f"{len(conditions)} regions are described; shares are given for {region_weights.shape[-2]}")
    if any(c.context is None for c in conditions):
        raise ShapeError("a region must have something to read; one of these conditions has no memory")
    length = max(_require_context(c).shape[1] for c in conditions)
    source = conditions[0] if base is None else base
    context = torch.cat([_pad_to_length(_require_context(c), length) for c in conditions], dim=1)
    all_full = all(c.context_mask is None and _require_context(c).shape[1] == length for c in conditions)
    mask = None if all_full else torch.cat([_pad_to_length(_context_mask(c), length) for c in conditions], dim=1)
    weights = region_weights.to(context).expand(context.shape[0], -1, -1)
    return Condition(context, mask, source.pooled, source.reference, weights)


def _equalize_regions(conditions: Sequence[Condition]) -> list[Condition]:
    """The same conditions, with empty regions behind those that have fewer; left alone where none has any."""
    max_regions = max((c.region_weights.shape[1] for c in conditions if c.region_weights is not None), default=0)
    if not max_regions:
        return list(conditions)
    tokens = next(c.region_weights.shape[2] for c in conditions if c.region_weights is not None)
    length = max(
        _require_context(c).shape[1] // (1 if c.region_weights is None else c.region_weights.shape[1])
        for c in conditions
    )
    return [_pad_regions(c, max_regions, length, tokens) for c in conditions]


def _pad_regions(condition: Condition, regions: int, length: int, tokens: int) -> Condition:
    context, mask = _require_context(condition), _context_mask(condition)
    region_weights = (
        context.new_ones(len(context), 1, tokens) if condition.region_weights is None else condition.region_weights
    )
    if condition.region_weights is not None and region_weights.shape[2] != tokens:
        raise ShapeError(f"regions of one batch must be of as many tokens; got {region_weights.shape[2]} and {tokens}")
    chunks = [_pad_to_length(chunk, length) for chunk in context.chunk(region_weights.shape[1], dim=1)]
    masks = [_pad_to_length(chunk, length) for chunk in mask.chunk(region_weights.shape[1], dim=1)]
    return replace(
        condition,
        context=_pad_to_length(torch.cat(chunks, dim=1), regions * length),
        context_mask=_pad_to_length(torch.cat(masks, dim=1), regions * length),
        region_weights=_pad_to_length(region_weights, regions),
    )


def condition_to(condition: Condition, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
    """The same on a device and in a number format, for conditioners that stand elsewhere or speak in another."""
    reference = condition.reference
    return Condition(
        context=None if condition.context is None else condition.context.to(device, dtype),
        context_mask=None if condition.context_mask is None else condition.context_mask.to(device),
        pooled=None if condition.pooled is None else condition.pooled.to(device, dtype),
        reference=None if reference is None else _tokens_to(reference, device, dtype),
        region_weights=None if condition.region_weights is None else condition.region_weights.to(device, dtype),
    )


def _tokens_to(tokens: Tokens, device: torch.device, dtype: torch.dtype | None) -> Tokens:
    mask = None if tokens.mask is None else tokens.mask.to(device)
    return Tokens(tokens.values.to(device, dtype), tokens.positions.to(device), tokens.sizes, mask)


def _select_rows(tensor: Tensor | None, index: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.index_select(0, index.to(tensor.device))


def _select_token_rows(tokens: Tokens, index: Tensor) -> Tokens:
    sizes = tuple(tokens.sizes[row] for row in index.tolist())
    values, positions = tokens.values[index], tokens.positions[index]
    return Tokens(values, positions, sizes, _select_rows(tokens.mask, index))


def _stack_contexts(conditions: Sequence[Condition]) -> tuple[Tensor, Tensor | None]:
    length = max(_require_context(c).shape[1] for c in conditions)
    context = torch.cat([_pad_to_length(_require_context(c), length) for c in conditions])
    if all(c.context_mask is None and _require_context(c).shape[1] == length for c in conditions):
        return context, None
    return context, torch.cat([_pad_to_length(_context_mask(c), length) for c in conditions])


def _pad_to_length(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[1]
    return (
        torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1) if missing else tensor
    )


def _require_context(condition: Condition) -> Tensor:
    if condition.context is None:
        raise ShapeError("a condition without memory has no memory to join")
    return condition.context


def _context_mask(condition: Condition) -> Tensor:
    if condition.context_mask is not None:
        return condition.context_mask
    context = _require_context(condition)
    return torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)


def mean_pool(context: Tensor, mask: Tensor | None) -> Tensor:
    """The summary of the published models: the mean (B, W') of the real entries of a memory (B, M, W')."""
    if mask is None:
        return context.mean(dim=1)
    weight = mask.to(context.dtype)[..., None]
    return (context * weight).sum(dim=1) / weight.sum(dim=1)
