"""Prediction from data: answers of a model whose task is a `PredictionTask`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

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
    latents = [model.autoencoder.encode(task.data(request)[None].to(model.device)) for request in checked]
    tokens = stack_tokens([model.tokenizer.patchify(latent) for latent in latents])
    rows = [task.conditions(request) for request in checked]
    fields = {field: [value for row in rows for value in row[field]] for field in (rows[0] if rows else {})}
    condition = model.encode_condition(fields, len(checked))
    predictions = model.predict(tokens.with_values(tokens.values.to(model.dtype)), None, condition)
    return [task.answer(row, request) for row, request in zip(predictions.float().cpu(), checked, strict=True)]
