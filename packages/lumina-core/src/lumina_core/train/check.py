"""The dry run of a recipe: parts, shapes, parameter counts, an estimate of memory, and one batch through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from lumina_core.errors import LuminaError
from lumina_core.model import Model, build_dataset, build_model, look_outside
from lumina_core.parts import Dataset
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import Recipe
from lumina_core.train.batch import Examples, Raw, check_extents, tokenised
from lumina_core.train.distributed import Place
from lumina_core.train.loop import freeze
from lumina_core.train.optimizer import make_optimizers
from lumina_core.train.order import order_of
from lumina_core.train.step import Stepper

CHECKED = 4
"""Examples that a dry run sends through the model."""
LOOKED_AT = 2000
"""Values at most that are looked at for their length."""


@dataclass(frozen=True)
class Found:
    """What a dry run found."""

    parts: tuple[tuple[str, str], ...]
    parameters: dict[str, int]
    trained: int
    examples: int
    data_shape: tuple[int, ...]
    token_shape: tuple[int, ...]
    loss: float
    memory_bytes: int
    seconds: float
    too_long: tuple[str, ...] = ()


def check(recipe: Recipe, registry: Registry) -> Found:
    """Build everything, read a few examples and take one step with them; nothing is written.

    Raises:
        LuminaError: as the run itself would.
    """
    look_outside(recipe, registry)
    dataset = build_dataset(recipe, registry)
    model = build_model(recipe, registry)
    check_extents(model, dataset)
    for field, conditioner in model.speakers.items():
        if hasattr(conditioner, "learn"):
            conditioner.learn(dataset.values(field))
    freeze(model, recipe.training.freeze)
    raw = _read(model, dataset, recipe.training.seed)
    began = time.perf_counter()
    loss = _one_step(model, recipe, raw)
    seconds = time.perf_counter() - began
    tokens = tokenised(model, raw.data)
    return Found(
        parts=tuple(recipe.used()),
        parameters=parameters(model),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples=len(dataset),
        data_shape=tuple(raw.data[0].shape),
        token_shape=tuple(tokens.values.shape[1:]),
        loss=loss,
        memory_bytes=memory(model, recipe, tokens.values.shape[1]),
        seconds=seconds,
        too_long=tuple(too_long(model, dataset)),
    )


def too_long(model: Model, dataset: Dataset) -> Iterator[str]:
    """For each conditioner that cuts long values, a line on how many are cut, of the first that the data can have."""
    for field, speaker in model.speakers.items():
        if not hasattr(speaker, "unread"):
            continue
        with suppress(LuminaError):  # a data set that cannot list them is no worse for it
            values = dataset.values(field)[:LOOKED_AT]
            ends = [end for end in map(speaker.unread, values) if end]
            if ends:
                yield f"{len(ends)} of {len(values)} values of '{field}' are cut; left out from: '{ends[0][:40]}'"


def parameters(model: Model) -> dict[str, int]:
    """Number of weights of each part that has any."""
    modules = {name: child for name, child in model.named_children() if name != "conditioners"}
    modules |= {f"conditioners.{name}": child for name, child in model.conditioners.items()}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    return {name: count for name, count in counts.items() if count}


def memory(model: Model, recipe: Recipe, tokens: int) -> int:
    """Bytes that a run needs, roughly: weights, gradients, average and optimizer in float32, and what is kept for the
    backward pass (some 16 numbers of the backbone's width a token and layer; a rule of thumb of ours)."""
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    settings = getattr(model.backbone, "config", None)
    width, depth = getattr(settings, "width", 0), getattr(settings, "depth", 0)
    share = -(-recipe.training.batch // recipe.training.accumulate)
    return 4 * (every + 4 * trained + 16 * share * tokens * width * depth)


def _read(model: Model, dataset: Dataset, seed: int) -> Raw:
    draws = order_of(dataset, seed).step(0, CHECKED)
    return Examples(dataset, model.task.data_field, list(model.speakers))[draws]


def _one_step(model: Model, recipe: Recipe, raw: Raw) -> float:
    training = recipe.training.model_copy(update={"accumulate": 1, "compile": False})
    stepper = Stepper(model, training, Place(0, 1, torch.device("cpu")), make_optimizers(model, training))
    return stepper.step(0, raw).loss
