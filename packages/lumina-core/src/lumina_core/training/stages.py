"""Stages of a training: consecutive steps with data, batch size and learning rate of their own (image sizes)."""

from __future__ import annotations

from dataclasses import dataclass

from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset
from lumina_core.recipe import Recipe, TrainingConfig
from lumina_core.training.dataloader import derive_seed


@dataclass(frozen=True)
class Stage:
    """Some consecutive steps of a training.

    Attributes:
        start, stop: the first step, and the step behind the last one; the first step of a training is 0.
        dataset: its examples.
        global_batch_size: examples per step, over all processes.
        lr: peak learning rate.
        seed: seed of the order of its examples.
    """

    start: int
    stop: int
    dataset: Dataset
    global_batch_size: int
    lr: float
    seed: int


def stage_batch_sizes(training: TrainingConfig) -> list[int]:
    """Return the examples per step of each stage; of a training without stages, those of the training."""
    default = training.global_batch_size
    return [stage.global_batch_size or default for stage in training.stages] or [default]


def build_stages(recipe: Recipe, registry: Registry, dataset: Dataset | None = None) -> list[Stage]:
    """Build the stages of a training and their data sets; a training without stages is one.

    Args:
        recipe: its `training.stages` are built.
        registry: where data sets are found.
        dataset: examples instead of those of the recipe's data set.

    Raises:
        ConfigError: the recipe has no data set, or a stage changes options of the data set that was passed.
    """
    training = recipe.training
    if not training.stages:
        built = build_dataset(recipe, registry) if dataset is None else dataset
        return [Stage(0, training.steps, built, training.global_batch_size, training.lr, training.seed)]
    stages: list[Stage] = []
    start = 0
    for index, config in enumerate(training.stages):
        if dataset is not None and config.dataset:
            raise ConfigError(
                f"training.stages[{index}].dataset: got options, expected none for a data set that is given. "
                "Remove them, or name the data set in the recipe."
            )
        if dataset is not None:
            built = dataset
        elif not config.dataset and stages:
            built = stages[0].dataset if not training.stages[0].dataset else build_dataset(recipe, registry)
        else:
            built = build_dataset(with_dataset_options(recipe, index), registry)
        seed = training.seed if index == 0 else derive_seed(training.seed, -2, index)
        size = config.global_batch_size or training.global_batch_size
        stages.append(Stage(start, start + config.steps, built, size, config.lr or training.lr, seed))
        start += config.steps
    return stages


def with_dataset_options(recipe: Recipe, index: int) -> Recipe:
    """Return a recipe whose data set has the options of a stage.

    Raises:
        ConfigError: the recipe has no data set.
    """
    if recipe.dataset is None:
        raise ConfigError("dataset: got none, expected a data set, such as `dataset: {type: NAME, folder: DIR}`.")
    options = {**recipe.dataset.model_dump(), **recipe.training.stages[index].dataset}
    return recipe.model_copy(update={"dataset": ComponentSpec(**options)})
