"""Prediction from data: answers of a model whose task is a `PredictionTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.protocols import PredictionTask
from lumina_core.types import stack_tokens


@torch.inference_mode()
def predict(model: Model, requests: Sequence[Any]) -> list[Any]:
    """Answer requests in one batch; data of several sizes is padded and masked.

    Args:
        model: in evaluation mode, such as `load_model` returns.
        requests: instances of the task's Request, or mappings of its fields.

    Returns:
        One answer per request, see `PredictionTask.answer`.

    Raises:
        ConfigError: the task does not predict, or a field of a request is invalid.
    """
    task = model.task
    if not isinstance(task, PredictionTask):
        raise ConfigError(f"task: got {type(task).__name__}, expected a PredictionTask. Use Pipeline to generate.")
    checked = [
        one if isinstance(one, task.Request) else task.Request.read(one, f"requests[{index}]")
        for index, one in enumerate(requests)
    ]
    if not checked:
        return []
    rows = [task.conditions(request) for request in checked]
    fields = {field: [value for row in rows for value in row[field]] for field in rows[0]}
    predictions = predict_data(model, [task.data(request) for request in checked], fields)
    return [task.answer(row, request) for row, request in zip(predictions, checked, strict=True)]


@torch.inference_mode()
def predict_data(
    model: Model, data: Sequence[Tensor], fields: Mapping[str, Sequence[Any]] = MappingProxyType({})
) -> Tensor:
    """Return the head's outputs (B, ...) for data (channels, ...) of any sizes, float32 on the CPU.

    Args:
        model: in evaluation mode, with a task that predicts.
        data: one item per row of the result.
        fields: values of the conditioners by field, one per item.
    """
    task = model.task
    assert isinstance(task, PredictionTask)  # the callers have checked it
    latents = [model.encode_data(item[None].to(model.device)) for item in data]
    items = [model.tokenizer.patchify(latent) for latent in latents]
    items = [tokens.with_values(tokens.values.to(model.dtype)) for tokens in items]
    if not model.conditioners_by_field:
        packed = task.predict_items(model.backbone, model.head, items)
        if packed is not None:
            return packed.float().cpu()
    condition = model.encode_condition(fields, len(data))
    return model.predict(stack_tokens(items), None, condition).float().cpu()
