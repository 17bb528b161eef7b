"""The dry run of a recipe: parts, shapes, parameter counts, an estimate of memory, and one batch through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from lumina_core.errors import LuminaError
from lumina_core.model import Model, build_dataset, build_model, check_pretrained
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset, SupportsFit
from lumina_core.recipe import Recipe
from lumina_core.training.dataloader import RawBatch, StepDataset, check_data_sizes, encode_to_tokens, make_sampler
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep, freeze

NUM_EXAMPLES = 4
"""Examples that a dry run sends through the model."""
MAX_VALUES = 2000
"""Values at most that are looked at for their length."""


@dataclass(frozen=True)
class DryRunReport:
    """What a dry run found."""

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
    """Build everything, read a few examples and take one step with them; nothing is written.

    Raises:
        LuminaError: as the run itself would.
    """
    check_pretrained(recipe, registry)
    dataset = build_dataset(recipe, registry)
    model = build_model(recipe, registry)
    check_data_sizes(model, dataset)
    for field, conditioner in model.conditioners_by_field.items():
        if isinstance(conditioner, SupportsFit):
            conditioner.fit(dataset.values(field))
    freeze(model, recipe.training.freeze)
    raw_batch = _read_batch(model, dataset, recipe.training.seed)
    start_time = time.perf_counter()
    loss = _run_step(model, recipe, raw_batch)
    step_seconds = time.perf_counter() - start_time
    tokens = encode_to_tokens(model, raw_batch.data)
    return DryRunReport(
        components=tuple(recipe.component_names()),
        parameters=count_parameters(model),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples=len(dataset),
        data_shape=tuple(raw_batch.data[0].shape),
        token_shape=tuple(tokens.values.shape[1:]),
        loss=loss,
        memory_bytes=estimate_memory(model, recipe, tokens.values.shape[1]),
        step_seconds=step_seconds,
        truncation_notes=tuple(truncation_notes(model, dataset)),
    )


def truncation_notes(model: Model, dataset: Dataset) -> Iterator[str]:
    """For each conditioner that cuts long values, a line on how many are cut, of the first that the data can have."""
    for field, conditioner in model.conditioners_by_field.items():
        with suppress(LuminaError):  # a data set that cannot list them is no worse for it
            values = dataset.values(field)[:MAX_VALUES]
            cut_texts = [text for text in map(conditioner.truncated_text, values) if text]
            if cut_texts:
                yield f"{len(cut_texts)} of {len(values)} values of '{field}' are cut; left out from: '{cut_texts[0][:40]}'"


def count_parameters(model: Model) -> dict[str, int]:
    """Number of weights of each part that has any."""
    modules = {name: child for name, child in model.named_children() if name != "conditioners"}
    modules |= {f"conditioners.{name}": child for name, child in model.conditioners.items()}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    return {name: count for name, count in counts.items() if count}


def estimate_memory(model: Model, recipe: Recipe, num_tokens: int) -> int:
    """Bytes that a run needs, roughly: weights, gradients, average and optimizer in float32, and what is kept for the
    backward pass (some 16 numbers of the backbone's width a token and layer; a rule of thumb of ours)."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = getattr(model.backbone, "config", None)
    hidden_size, num_layers = getattr(config, "hidden_size", 0), getattr(config, "num_layers", 0)
    local_batch_size = -(-recipe.training.global_batch_size // recipe.training.gradient_accumulation_steps)
    return 4 * (total + 4 * trainable + 16 * local_batch_size * num_tokens * hidden_size * num_layers)


def _read_batch(model: Model, dataset: Dataset, seed: int) -> RawBatch:
    keys = make_sampler(dataset, seed).step_keys(0, NUM_EXAMPLES)
    return StepDataset(dataset, model.task.data_field, list(model.conditioners_by_field))[keys]


def _run_step(model: Model, recipe: Recipe, raw_batch: RawBatch) -> float:
    training = recipe.training.model_copy(update={"gradient_accumulation_steps": 1, "compile": False})
    train_step = TrainStep(model, training, ProcessInfo(0, 1, torch.device("cpu")), build_optimizers(model, training))
    return train_step.step(0, raw_batch).loss
