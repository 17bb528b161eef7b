"""Config and batching that metrics and feature extractors share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings


class MetricConfig(Settings):
    """Feature extractor of a metric; options without a type apply to the default: `feature_extractor.device=cuda`."""

    feature_extractor: ComponentSpec = Field(description="features to compare by")

    @model_validator(mode="before")
    @classmethod
    def _use_default_type(cls, values: Any) -> Any:
        default = cls.model_fields["feature_extractor"].default
        spec = values.get("feature_extractor") if isinstance(values, dict) else None
        if isinstance(spec, dict) and "type" not in spec and isinstance(default, ComponentSpec):
            return {**values, "feature_extractor": {"type": default.type, **spec}}
        return values


def batch_by_shape(items: Sequence[Tensor], max_batch_size: int | None = None) -> Iterator[Tensor]:
    """Stack each run of items (...) of one shape as (B, ...), in order, with at most `max_batch_size` in a batch."""
    for _, run in itertools.groupby(items, key=lambda item: item.shape):
        same_shape = list(run)
        step = len(same_shape) if max_batch_size is None else max_batch_size
        for start in range(0, len(same_shape), step):
            yield torch.stack(same_shape[start : start + step])
