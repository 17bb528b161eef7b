"""Dry run of a recipe: components, shapes, parameter counts, an estimate of memory, one training step."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from lumina_core.errors import LuminaError
from lumina_core.model import Model, check_pretrained, with_class_names
from lumina_core.models.dit import DiTBackbone
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset, GenerationTask
from lumina_core.recipe import Recipe
from lumina_core.training.callbacks import check_samples
from lumina_core.training.dataloader import StepDataset, build_stages, check_data, encode_to_tokens, make_sampler
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import LossModule, build_training_model, fit_conditioners, freeze

NUM_EXAMPLES = 4
"""Examples in the training step of a dry run."""
MAX_VALUES = 2000
"""Most values of a field whose length is checked."""


@dataclass(frozen=True)
class DryRunReport:
    """Result of a dry run.

    Attributes:
        components: (type, name) of every component.
        parameters: number of weights by component.
        trainable_parameters: number of weights that are trained.
        examples: length of the data set.
        data_shape: shape of one example's data.
        token_shape: (N, D) of its tokens.
        loss: loss of the step.
        memory_bytes: estimated memory of the training.
        step_seconds: duration of the step.
        truncation_notes: one line per conditioner that truncates values, or property of the data that requests lack.
    """

    components: tuple[tuple[str, str], ...]
    parameters: dict[str, int]
    trainable_parameters: int
    examples: int
    data_shape: tuple[int, ...]
    token_shape: tuple[int, ...]
    loss: float
    memory_bytes: int
    step_seconds: float
    truncation_notes: tuple[str, ...] = ()


def dry_run(recipe: Recipe, registry: Registry) -> DryRunReport:
    """Build the model and the data set of a recipe and take one step on a few examples; writes no file.

    Raises:
        LuminaError: as `Trainer` would.
    """
    check_pretrained(recipe, registry)
    stages = build_stages(recipe, registry)
    dataset = stages[0].dataset
    recipe = with_class_names(recipe, dataset, registry)
    if recipe.training.adapter is not None:
        from lumina_core.adapters.base import use_base_model

        recipe, _ = use_base_model(recipe, (), registry)
    model, _ = build_training_model(recipe, registry)
    for stage in stages:
        check_data(model, stage.dataset)
    if recipe.training.adapter is None:
        fit_conditioners(model, dataset)
        freeze(model, recipe.training.freeze)
    check_samples(model, registry)
    raw_batch = StepDataset.of_model(dataset, model)[
        make_sampler(dataset, recipe.training.seed).step_keys(0, NUM_EXAMPLES)
    ]
    training = recipe.training.model_copy(update={"compile": False, "cache_dir": None})
    start_time = time.perf_counter()
    loss, _ = LossModule(model, training, ProcessInfo(0, 1, torch.device("cpu")))(raw_batch)
    loss.backward()
    build_optimizers(model, training).step()
    step_seconds = time.perf_counter() - start_time
    tokens = encode_to_tokens(model, raw_batch.data)
    return DryRunReport(
        components=tuple(recipe.component_names()),
        parameters=count_parameters(model),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples=len(dataset),
        data_shape=tuple(raw_batch.data[0].shape),
        token_shape=tuple(tokens.values.shape[1:]),
        loss=float(loss.detach()),
        memory_bytes=estimate_memory(model, recipe, tokens.values.shape[1]),
        step_seconds=step_seconds,
        truncation_notes=(*truncation_notes(model, dataset), *fit_notes(model, dataset)),
    )


def truncation_notes(model: Model, dataset: Dataset) -> Iterator[str]:
    """Yield a line per conditioner that truncates values, with their share of the first MAX_VALUES."""
    for field, conditioner in model.conditioners_by_field.items():
        with suppress(LuminaError):  # not every data set can list its values
            values = dataset.values(field)[:MAX_VALUES]
            truncated = [text for text in map(conditioner.truncated_text, values) if text]
            if truncated:
                share = f"{len(truncated)} of {len(values)} values of '{field}'"
                yield f"{share} are truncated; cut off: '{truncated[0][:40]}'"


def fit_notes(model: Model, dataset: Dataset) -> Iterator[str]:
    """Yield a line per property of the data that requests of the task do not have: a condition, or the size."""
    task = model.task
    if not isinstance(task, GenerationTask):
        return
    with suppress(LuminaError, LookupError):  # an example may not be described by a request
        fields = dataset.get(0, random.Random(0))
        request = task.Request.read(dict(task.request_for(fields)), "example")
        # an option of requests that the example does not use, such as given points, is a field of its name
        reached = {*task.conditions(request), *task.Request.model_fields}
        never = sorted(set(model.conditioners_by_field) - reached)
        if never:
            yield (
                f"no request of {model.recipe.task.type} has a value for the conditioner '{never[0]}': samples never "
                "use it; choose another task, or remove the conditioner"
            )
    train_size, sizes = task.train_size(), list(dataset.sizes())
    if train_size is not None and sizes and tuple(train_size) not in map(tuple, sizes):
        yield (
            f"the data have the size {task.format_size(sizes[0])}{' ...' if len(sizes) > 1 else ''}, and requests get "
            f"{task.format_size(train_size)} unless they have one: set the same in task and dataset"
        )


def count_parameters(model: Model) -> dict[str, int]:
    """Count the weights of each component that has any."""
    modules = {name: child for name, child in model.named_children() if name != "conditioners"}
    modules |= {f"conditioners.{name}": child for name, child in model.conditioners.items()}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    return {name: count for name, count in counts.items() if count}


def estimate_memory(model: Model, recipe: Recipe, num_tokens: int) -> int:
    """Estimate the bytes of a training: weights, gradients, averages and optimizer states in float32, and activations.

    Activations count as 16 numbers of the backbone's width per token and layer, a rule of thumb of ours.
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.backbone.config if isinstance(model.backbone, DiTBackbone) else None
    width = 0 if config is None else config.hidden_size * config.num_layers
    local_batch_size = -(-recipe.training.global_batch_size // recipe.training.gradient_accumulation_steps)
    return 4 * (total + 4 * trainable + 16 * local_batch_size * num_tokens * width)
