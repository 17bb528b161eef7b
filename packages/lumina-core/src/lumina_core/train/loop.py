"""A whole run: from a recipe and a folder to a trained model in it. The only place of training with a clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from lumina_core.checkpoint import compare, fitting, read_weights, save_model
from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.files import whole_file
from lumina_core.folders import WEIGHTS, open_folder
from lumina_core.model import Model, build_dataset, build_model, look_outside
from lumina_core.parts import Dataset
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import Recipe, write_recipe
from lumina_core.train import distributed
from lumina_core.train.alone import alone
from lumina_core.train.batch import Examples, Raw, check_extents, tokenised
from lumina_core.train.distributed import Place
from lumina_core.train.log import Log
from lumina_core.train.optimizer import make_optimizers
from lumina_core.train.order import Draw, Reader, order_of
from lumina_core.train.preview import draw_samples
from lumina_core.train.state import Run, load_run, newest, prune, save_run
from lumina_core.train.step import Average, Stepper
from lumina_core.weights.pieces import read

SURVEYED = 4096
"""Examples at most that an objective may survey before a run."""


@dataclass(frozen=True)
class Asked:
    """What the user asked of a run beside the recipe."""

    out: Path
    resume: bool = False
    init: tuple[Path, ...] = ()
    """Models to begin from; where two have a weight, the later one's counts."""
    device: str | None = None
    quiet: bool = False


def train(recipe: Recipe, registry: Registry, asked: Asked) -> Path:
    """Train a recipe; returns the folder of the finished model.

    Raises:
        ConfigError: the folder holds a run already and `resume` was not asked for, it is a file, or another process
            trains into it.
        CheckpointError: what is resumed or begun from does not fit, or a checkpoint cannot be written.
        LuminaError: a step went wrong, or a file of the run cannot be written.
    """
    if asked.out.exists() and not asked.out.is_dir():
        raise ConfigError(f"--out {asked.out} is a file; a run needs a folder, a new one or its own: choose another")
    place = distributed.enter(asked.device)
    try:
        return _train(recipe, registry, asked, place)
    except OSError as error:
        raise LuminaError(f"the run in {asked.out} stopped: {error}; what was saved before is still whole") from error
    finally:
        distributed.leave()


def _train(recipe: Recipe, registry: Registry, asked: Asked, place: Place) -> Path:
    begun = newest(asked.out)
    if begun is not None and not asked.resume:
        raise ConfigError(
            f"{asked.out} holds a run already ({begun.name}); go on with --resume or choose another --out"
        )
    look_outside(recipe, registry)
    dataset = build_dataset(recipe, registry)
    run, done = _prepared(recipe, registry, asked, place, dataset, begun)
    asked.out.mkdir(parents=True, exist_ok=True)  # a recipe that cannot be trained leaves nothing behind
    with alone(asked.out) if place.first else nullcontext():
        return _trained(run, done, dataset, registry, asked, place)


def _trained(run: Run, done: int, dataset: Dataset, registry: Registry, asked: Asked, place: Place) -> Path:
    recipe = run.model.recipe
    stepper = Stepper(run.model, recipe.training, place, run.optimizers)
    distributed.wait(place)
    if place.first:
        prune(asked.out, recipe.training.keep)
        with whole_file(asked.out / "recipe.yaml") as partial:
            partial.write_text(write_recipe(recipe), encoding="utf-8")
    # only the first process writes: two logs would cut each other's rows
    with Log(asked.out, done, recipe.training.steps, asked.quiet) if place.first else nullcontext() as log:
        for number, raw in enumerate(_reader(run.model, dataset, done, place), start=done):
            began = time.perf_counter()
            report = stepper.step(number, raw)
            run.average.update(run.model, number)
            seconds = time.perf_counter() - began
            if log is not None:
                values = {"loss": report.loss, "gradient": report.gradient, "seconds": seconds, **report.terms}
                log.write(number + 1, values)
                _milestones(run, number + 1, asked.out, registry, log)
            distributed.wait(place) if (number + 1) % recipe.training.save_every == 0 else None
    return _finish(run, asked.out, registry, place)


def _prepared(
    recipe: Recipe, registry: Registry, asked: Asked, place: Place, dataset: Dataset, begun: Path | None
) -> tuple[Run, int]:
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, registry)
    check_extents(model, dataset)
    if begun is None:
        _begin(model, dataset, asked, place, registry)
    else:
        _resume(model, begun)
    model.to(place.device)
    if hasattr(model.objective, "survey"):
        model.objective.survey(surveyed(model, dataset))
    freeze(model, recipe.training.freeze)
    run = Run(model, Average(model, recipe.training.ema), make_optimizers(model, recipe.training))
    return run, load_run(run, begun) if begun is not None else 0


def surveyed(model: Model, dataset: Dataset) -> torch.Tensor:
    """Clean tokens (M, N, D) from all over the data set, for objectives that compare with more than the batch."""
    places = range(0, len(dataset), -(-len(dataset) // SURVEYED))
    data = [dataset.example(index, Draw(index, index).python())[model.task.data_field] for index in places]
    return tokenised(model, data).values


def _resume(model: Model, folder: Path) -> None:
    weights = read_weights(folder / WEIGHTS)
    misfit = compare(model, weights)
    if misfit:
        raise CheckpointError(f"{folder} does not fit this recipe: {misfit}; was the recipe changed since?")
    model.load_state_dict(weights)


def _begin(model: Model, dataset: Dataset, asked: Asked, place: Place, registry: Registry) -> None:
    """A fresh run: weights of other models where asked for, then what parts must learn from the data once."""
    kept: dict[str, torch.Tensor] = {}
    for folder in asked.init:
        taken = _taken_over(model, folder, registry)
        kept |= taken
        if place.first:
            print(f"began from {len(taken)} tensors of {folder}; {_left_fresh(model, kept)}")
    for field, conditioner in model.speakers.items():
        prefix = f"conditioners.{field}."
        if hasattr(conditioner, "learn") and not any(name.startswith(prefix) for name in kept):
            conditioner.learn(dataset.values(field))


def _taken_over(model: Model, folder: Path, registry: Registry) -> dict[str, torch.Tensor]:
    """The weights of another model that were put into this one."""
    opened = open_folder(folder, registry)
    kept = {name: read(piece) for name, piece in fitting(model, opened.weights).items()}
    if not kept:
        raise ConfigError(f"--init {folder}: none of its weights fits this recipe by name and shape")
    model.load_state_dict(kept, strict=False)
    return kept


def _left_fresh(model: Model, kept: Mapping[str, torch.Tensor]) -> str:
    fresh = sorted({name.rsplit(".", 1)[0] for name in model.state_dict() if name not in kept})
    return f"fresh: {', '.join(fresh[:4])}{' ...' if len(fresh) > 4 else ''}" if fresh else "nothing is fresh"


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Stop the training of named parts (`conditioners.caption`).

    Raises:
        ConfigError: no weight's name begins with one of them.
    """
    model.train()
    for part in parts:
        frozen = [(name, p) for name, p in model.named_parameters() if name.startswith(part + ".")]
        if not frozen:
            raise ConfigError(f"training.freeze names '{part}', and no weights are called so")
        for _, parameter in frozen:
            parameter.requires_grad_(False)
        model.get_submodule(part).eval()


def _reader(model: Model, dataset: Dataset, done: int, place: Place) -> DataLoader[Raw]:
    training = model.recipe.training
    if training.batch % place.world:
        raise ConfigError(
            f"training.batch {training.batch} cannot be shared by {place.world} processes; take a multiple"
        )
    steps = Reader(order_of(dataset, training.seed), done, training.steps, training.batch, (place.rank, place.world))
    examples = Examples(dataset, model.task.data_field, list(model.speakers))
    # batch_size None: a whole step is read at once, see Examples
    return DataLoader(examples, sampler=steps, batch_size=None, num_workers=training.workers)


def _milestones(run: Run, done: int, out: Path, registry: Registry, log: Log) -> None:
    training = run.model.recipe.training
    if done % training.save_every == 0 or done == training.steps:
        save_run(run, done, out, registry)
        prune(out, training.keep)
    if training.sample_every and done % training.sample_every == 0 and training.samples:
        log.picture(done, draw_samples(run.model, registry, run.average.state(run.model), out / "samples", done))


def _finish(run: Run, out: Path, registry: Registry, place: Place) -> Path:
    finished = out / "model"
    if place.first:
        run.model.load_state_dict(run.average.state(run.model))
        save_model(run.model, registry, finished)
    distributed.wait(place)
    return finished
