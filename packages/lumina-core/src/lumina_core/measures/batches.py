"""Items of several sizes as batches of one size each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def of_one_size(items: Sequence[Tensor], most: int | None = None) -> Iterator[Tensor]:
    """Each run of items (...) of the same shape as one tensor (B, ...), in order; at most `most` at once."""
    for _, run in itertools.groupby(items, key=lambda item: item.shape):
        alike = list(run)
        step = len(alike) if most is None else most
        for start in range(0, len(alike), step):
            yield torch.stack(alike[start : start + step])
