"""Operations on conditions: join conditioners of one item, stack items to a batch, select items, combine regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lumina_core.errors import ShapeError
from lumina_core.types import Condition, Tokens, pad_to_length, stack_tokens


def join(conditions: Sequence[Condition]) -> Condition:
    """Join the conditions that several conditioners give for the same items.

    Contexts are concatenated along their entries, pooled and token conditions along their width.

    Raises:
        ShapeError: two have reference tokens or token positions, contexts differ in width, or one with regions meets
            another context.
    """
    if len(conditions) == 1:
        return conditions[0]
    references = [c.reference for c in conditions if c.reference is not None]
    positions = [c.token_positions for c in conditions if c.token_positions is not None]
    if len(positions) > 1:
        raise ShapeError(f"conditioners: got {len(positions)} with token positions, expected at most 1")
    with_context = [c for c in conditions if c.context is not None]
    widths = {_context(c).shape[-1] for c in with_context}
    if len(references) > 1 or len(widths) > 1:
        raise ShapeError(
            f"conditioners: got {len(references)} with reference tokens and contexts of the widths {sorted(widths)}, "
            "expected at most 1 of each"
        )
    if len(with_context) > 1 and any(c.region_weights is not None for c in with_context):
        raise ShapeError("conditioners: got a context with regions and another one, expected a single context")
    masks = [_context_mask(c) for c in with_context] if any(c.context_mask is not None for c in with_context) else []
    return Condition(
        context=_cat([_context(c) for c in with_context], dim=1),
        context_mask=_cat(masks, dim=1),
        pooled=_cat([c.pooled for c in conditions if c.pooled is not None], dim=-1),
        reference=references[0] if references else None,
        region_weights=with_context[0].region_weights if with_context else None,
        token_condition=_cat([c.token_condition for c in conditions if c.token_condition is not None], dim=-1),
        reference_condition=_cat(
            [c.reference_condition for c in conditions if c.reference_condition is not None], dim=-1
        ),
        token_positions=positions[0] if positions else None,
    )


def stack(conditions: Sequence[Condition]) -> Condition:
    """Stack the conditions of several batches into one batch, in order.

    Shorter contexts, reference tokens and token conditions are padded; masks are made only where needed. A batch
    without reference tokens gets none under the mask, one without a token condition gets zeros.

    Raises:
        ShapeError: some have a context or a pooled condition and others have none, or regions cover different tokens.
    """
    if len(conditions) == 1:
        return conditions[0]
    conditions = _equalize_regions(conditions)
    with_context = [c for c in conditions if c.context is not None]
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    if any(0 < n < len(conditions) for n in (len(with_context), len(pooled))):
        raise ShapeError(
            f"conditions of one batch: got {len(with_context)} with context and {len(pooled)} with a pooled condition "
            f"of {len(conditions)}, expected all or none"
        )
    context, mask = _stack_contexts(with_context) if with_context else (None, None)
    return Condition(
        context=context,
        context_mask=mask,
        pooled=_cat(pooled),
        reference=_stack_references(conditions),
        region_weights=_cat([c.region_weights for c in with_context if c.region_weights is not None]),
        token_condition=_stack_per_token(conditions, [c.token_condition for c in conditions]),
        reference_condition=_stack_per_token(conditions, [c.reference_condition for c in conditions]),
        token_positions=_stack_per_token(conditions, [c.token_positions for c in conditions]),
    )


def choose(mask: Tensor, if_true: Condition, if_false: Condition) -> Condition:
    """Choose each item from one of two conditions by mask (B,) bool."""
    both = stack([if_true, if_false])
    batch = mask.shape[0]
    rows = torch.arange(batch, device=mask.device)
    return select(both, torch.where(mask, rows, rows + batch))


def select(condition: Condition, index: Tensor) -> Condition:
    """Return the items at `index` (B',) int64, in that order."""
    return _map(condition, lambda x: x.index_select(0, index.to(x.device)), lambda tokens: tokens.select(index))


def repeat(condition: Condition, times: int) -> Condition:
    """Repeat every item, (a, b) -> (a, a, b, b) for two times."""
    return _map(
        condition,
        lambda x: x.repeat_interleave(times, dim=0),
        lambda tokens: tokens.select(torch.arange(len(tokens.sizes)).repeat_interleave(times)),
    )


def condition_to(condition: Condition, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
    """Move a condition to a device and a dtype; masks and positions keep theirs."""
    moved = _map(
        condition,
        lambda x: x.to(device, dtype if x.is_floating_point() else None),
        lambda tokens: tokens.to(device, dtype),
    )
    if condition.token_positions is None:
        return moved
    return replace(moved, token_positions=condition.token_positions.to(device))


def combine_regions(
    conditions: Sequence[Condition], region_weights: Tensor, base: Condition | None = None
) -> Condition:
    """Combine the conditions of regions into one whose context is read by regions.

    Args:
        conditions: one per region, each of batch size B and with a context.
        region_weights: (R, N) or (B, R, N) float, weight of each region at each token.
        base: everything but the context; None: the first region's.

    Raises:
        ShapeError: the numbers of conditions and weights differ, or a condition has no context.
    """
    if region_weights.shape[-2] != len(conditions):
        raise ShapeError(f"region weights: got {region_weights.shape[-2]} regions, expected {len(conditions)}")
    if any(c.context is None for c in conditions):
        raise ShapeError("regions: got a condition without context, expected a context for every region")
    length = max(_context(c).shape[1] for c in conditions)
    context = torch.cat([pad_to_length(_context(c), length) for c in conditions], dim=1)
    all_full = all(c.context_mask is None and _context(c).shape[1] == length for c in conditions)
    mask = None if all_full else torch.cat([pad_to_length(_context_mask(c), length) for c in conditions], dim=1)
    weights = region_weights.to(context).expand(context.shape[0], -1, -1)
    source = conditions[0] if base is None else base
    return replace(source, context=context, context_mask=mask, region_weights=weights)


def mean_pool(context: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the pooled condition of the published models: the mean (B, C') of a context's real entries (B, M, C')."""
    if mask is None:
        return context.mean(dim=1)
    weight = mask.to(context.dtype)[..., None]
    return (context * weight).sum(dim=1) / weight.sum(dim=1)


def _map(
    condition: Condition, of_tensor: Callable[[Tensor], Tensor], of_tokens: Callable[[Tokens], Tokens]
) -> Condition:
    """Apply functions to all tensors, and to the reference tokens."""
    values = {name: of_tensor(value) for name, value in vars(condition).items() if isinstance(value, Tensor)}
    reference = None if condition.reference is None else of_tokens(condition.reference)
    return replace(condition, **values, reference=reference)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    return torch.cat(list(tensors), dim=dim) if tensors else None


def _stack_contexts(conditions: Sequence[Condition]) -> tuple[Tensor, Tensor | None]:
    length = max(_context(c).shape[1] for c in conditions)
    context = torch.cat([pad_to_length(_context(c), length) for c in conditions])
    if all(c.context_mask is None and _context(c).shape[1] == length for c in conditions):
        return context, None
    return context, torch.cat([pad_to_length(_context_mask(c), length) for c in conditions])


def _stack_references(conditions: Sequence[Condition]) -> Tokens | None:
    some = next((c.reference for c in conditions if c.reference is not None), None)
    if some is None:
        return None

    references = []
    for condition in conditions:
        batch, width = batch_size(condition), some.values.shape[2]
        empty = Tokens(
            some.values.new_zeros(batch, 0, width),
            some.positions.new_zeros(batch, 0, some.positions.shape[2]),
            ((),) * batch,
        )
        references.append(condition.reference or empty)
    return stack_tokens(references)


def _stack_per_token(conditions: Sequence[Condition], values: Sequence[Tensor | None]) -> Tensor | None:
    """Stack one field (B, N, K) of all conditions; zeros where it is None, and behind shorter ones."""
    tensors = [value for value in values if value is not None]
    if not tensors:
        return None
    length, width = max(tensor.shape[1] for tensor in tensors), tensors[0].shape[2]
    return torch.cat(
        [
            tensors[0].new_zeros(batch_size(condition), length, width)
            if value is None
            else pad_to_length(value, length)
            for condition, value in zip(conditions, values, strict=True)
        ]
    )


def batch_size(condition: Condition) -> int:
    """Return B, the number of items of a condition.

    Raises:
        ShapeError: all fields are empty.
    """
    for value in vars(condition).values():
        if value is not None:
            return len(value.sizes) if isinstance(value, Tokens) else len(value)
    raise ShapeError("conditions of one batch: got an empty condition next to others, expected a field in each")


def _equalize_regions(conditions: Sequence[Condition]) -> list[Condition]:
    """Append empty regions where there are fewer; without any regions, conditions stay as they are."""
    max_regions = max((c.region_weights.shape[1] for c in conditions if c.region_weights is not None), default=0)
    if not max_regions:
        return list(conditions)
    tokens = next(c.region_weights.shape[2] for c in conditions if c.region_weights is not None)
    length = max(
        _context(c).shape[1] // (1 if c.region_weights is None else c.region_weights.shape[1]) for c in conditions
    )
    return [_pad_regions(c, max_regions, length, tokens) for c in conditions]


def _pad_regions(condition: Condition, regions: int, length: int, tokens: int) -> Condition:
    context, mask, weights = _context(condition), _context_mask(condition), condition.region_weights
    if weights is None:
        weights = context.new_ones(len(context), 1, tokens)
    if weights.shape[2] != tokens:
        raise ShapeError(
            f"region weights of one batch: got {weights.shape[2]} and {tokens} tokens, expected equal ones"
        )
    chunks = [pad_to_length(chunk, length) for chunk in context.chunk(weights.shape[1], dim=1)]
    masks = [pad_to_length(chunk, length) for chunk in mask.chunk(weights.shape[1], dim=1)]
    return replace(
        condition,
        context=pad_to_length(torch.cat(chunks, dim=1), regions * length),
        context_mask=pad_to_length(torch.cat(masks, dim=1), regions * length),
        region_weights=pad_to_length(weights, regions),
    )


def _context(condition: Condition) -> Tensor:
    if condition.context is None:
        raise ShapeError("conditions of one batch: got one without context, expected a context in each")
    return condition.context


def _context_mask(condition: Condition) -> Tensor:
    if condition.context_mask is not None:
        return condition.context_mask
    context = _context(condition)
    return torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
