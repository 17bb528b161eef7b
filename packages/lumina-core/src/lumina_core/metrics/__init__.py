"""How near what is generated comes to real examples: metrics, and what several of them share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from pydantic import BeforeValidator
from torch import Tensor


def batch_by_shape(items: Sequence[Tensor], max_batch_size: int | None = None) -> Iterator[Tensor]:
    """Each run of items (...) of the same shape as one tensor (B, ...), in order; at most `most` at once."""
    for _, run in itertools.groupby(items, key=lambda item: item.shape):
        same_shape = list(run)
        step = len(same_shape) if max_batch_size is None else max_batch_size
        for start in range(0, len(same_shape), step):
            yield torch.stack(same_shape[start : start + step])


def default_component(name: str) -> BeforeValidator:
    """Options without a name are those of the usual features: `features.side=224` says enough."""
    return BeforeValidator(
        lambda told: {"type": name, **told} if isinstance(told, dict) and "type" not in told else told
    )
