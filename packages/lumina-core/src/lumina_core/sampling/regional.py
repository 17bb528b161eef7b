"""What is said of parts of a result: one memory a region, read at the tokens that lie there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.conditions import in_regions, select, stack
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.types import Condition, Extent, Regions


def said_in_regions(
    model: Model, requests: Sequence[Request], said: Condition, silent: Condition | None, extent: Callable[[], Extent]
) -> tuple[Condition, Condition | None]:
    """The conditions of a batch, with what its requests say of regions; unchanged where none does.

    Args:
        said, silent: of all results, requests one after another.
        extent: gives the one size of what is made, or refuses; asked only where there are regions.
    """
    ask = getattr(model.task, "regions", None)
    found: list[Regions | None] = [None if ask is None else ask(request) for request in requests]
    if all(regions is None for regions in found):
        return said, silent
    parts, row = [], 0
    for request, regions in zip(requests, found, strict=True):
        rows = torch.arange(row, row + request.count)
        parts.append(_regional(model, select(said, rows), regions, extent()))
        row += request.count
    if silent is not None and any(regions is not None and regions.alike for regions in found):
        silent = replace(silent, summary=said.summary)
    return stack(parts), silent


def _regional(model: Model, whole: Condition, regions: Regions | None, extent: Extent) -> Condition:
    if regions is None:
        return whole
    shares = _at_tokens(model, regions.shares, extent)
    spoken, count = model.condition(regions.said, len(shares)), _count(whole)
    each = [select(spoken, torch.full((count,), region)) for region in range(len(shares))]
    return in_regions(each, shares, whole)


def _at_tokens(model: Model, shares: Tensor, extent: Extent) -> Tensor:
    """(R, ...) over the data's places -> (R, N): the mean over the places that a token stands for."""
    missing = [(0, side - there) for side, there in zip(extent, shares.shape[1:], strict=True)]
    edges = [edge for pair in reversed(missing) for edge in pair]
    whole = F.pad(shares[:, None], edges, mode="replicate")[:, 0] if any(edges) else shares
    for axis, stride in enumerate(model.autoencoder.stride, start=1):
        whole = whole.unflatten(axis, (-1, stride)).mean(dim=axis + 1)
    latent = whole[:, None].expand(-1, model.autoencoder.channels, *whole.shape[1:])
    return model.tokenizer.tokens(latent).values.mean(dim=2)


def _count(condition: Condition) -> int:
    return next(len(tensor) for tensor in (condition.memory, condition.summary) if tensor is not None)
