"""Evaluation of models that predict: scores on a data set with targets, by the model's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec, apply_override
from lumina_core.data.dataset import as_dataset
from lumina_core.errors import ConfigError
from lumina_core.model import Model, build_component
from lumina_core.model_dir import load_model
from lumina_core.plugins.registry import Registry
from lumina_core.prediction import predict_data
from lumina_core.protocols import Dataset, PredictionTask
from lumina_core.recipe import Recipe
from lumina_core.training.distributed import ProcessInfo, call_in_main, gather_results


def evaluate_prediction(
    model_name: str | Path,
    registry: Registry,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    num_samples: int = 500,
    seed: int = 0,
    batch_size: int = 50,
    device: str = "cpu",
    out: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda title, done, total: None,
    process: ProcessInfo | None = None,
) -> dict[str, Any]:
    """Score a model that predicts on (a sample of) a data set.

    Args:
        model_name: model folder or installed model.
        registry: components.
        dataset: name of a data set component, or recipe with a data set; None: that of the model's recipe.
        overrides: keys of the data set, `split=test`.
        num_samples, seed: number of examples, and seed of their choice.
        batch_size: data per forward pass.
        device: device of the model.
        out: folder for the tables and plots of the task; None: none are written.
        progress: called with a title, a number of done items, and their total.
        process: this process of several that share the data of each forward pass; the first one writes files. None:
            this process works alone.

    Returns:
        The report of the task with `model` and `dataset`, as JSON takes it.

    Raises:
        ConfigError: the task does not predict, or the data set does not fit.
    """
    model = load_model(model_name, registry, device)
    if not isinstance(model.task, PredictionTask):
        raise ConfigError(f"model: got {model_name}, a model that generates, expected one that predicts.")
    spec, examples = _build_dataset(model.recipe, dataset, overrides, registry)
    report = model.task.evaluate(
        lambda data: _predict_shared(model, data, process), examples, num_samples=num_samples, seed=seed,
        batch_size=batch_size, out=out if process is None or process.is_main else None, progress=progress,
    )  # fmt: skip
    return {"model": str(model_name), "dataset": spec, **report}


def _predict_shared(model: Model, data: Sequence[Tensor], process: ProcessInfo | None) -> Tensor:
    """Return the outputs for data, of which each process computes a share."""
    if process is None:
        return predict_data(model, data)
    ranks = range(min(process.world_size, len(data)))
    own = data[process.rank :: process.world_size] or data[:1]  # a process without a share repeats the first
    shares = gather_results(lambda: predict_data(model, own), process)

    def combine() -> Tensor:
        rows = torch.empty(len(data), *shares[0].shape[1:])
        for rank in ranks:
            rows[rank :: process.world_size] = shares[rank]
        return rows

    return call_in_main(combine, process)


def _build_dataset(
    recipe: Recipe, name: str | None, overrides: Sequence[str], registry: Registry
) -> tuple[Mapping[str, Any], Dataset]:
    """Build a data set without augmentation keys of the recipe unless it is the recipe's own."""
    if name is None:
        spec = recipe.dataset
        if spec is None:
            raise ConfigError("dataset: got none, and the recipe of the model has none, expected one. Name a data set.")
    elif name in registry.registrations("dataset"):
        spec = ComponentSpec(type=name)
    else:
        spec = Recipe.load(name, registry=registry).dataset
        if spec is None:
            raise ConfigError(f"dataset: got the recipe {name} without a data set, expected a data set.")
    values: dict[str, Any] = {"type": spec.type, **spec.options}
    for override in overrides:
        values = apply_override(values, override)
    return values, as_dataset(build_component(registry, "dataset", ComponentSpec(**values)))
