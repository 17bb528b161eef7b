"""Evaluation sets: real examples with their prompts, and the items sampled from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec, suggest_or_list
from lumina_core.data.dataset import MapStyleDataset, as_dataset
from lumina_core.errors import ConfigError
from lumina_core.model import Model, build_component, build_dataset
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset, EvalItem, EvalSet, options_of
from lumina_core.recipe import Recipe

BASE_SEED = 1000
"""Noise seed of the first generated example; the following ones have consecutive seeds."""
SEED_STRIDE = 2**32
"""Distance between the noise seeds of two evaluation seeds, so that they share none."""


class DatasetEvalSet(EvalSet):
    """Every example of a data set with its fields; the random numbers of an example are fixed by its index.

    The families are the classes of the examples, if some share one.
    """

    def __init__(self, dataset: Dataset, data_field: str) -> None:
        self._dataset, self._data_field = dataset, data_field
        self._fields: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def reference(self, index: int) -> Tensor:
        """Return the data of an example.

        Raises:
            ConfigError: the examples lack the field that the model generates.
        """
        example = self._example(index)
        if self._data_field not in example:
            raise ConfigError(
                f"dataset: got examples with the fields {', '.join(example)}, expected '{self._data_field}', which the "
                "model generates."
            )
        data: Tensor = example[self._data_field]
        return data

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return every field but the data."""
        if index not in self._fields:
            self._example(index)
        return self._fields[index]

    @cached_property
    def families(self) -> Sequence[str] | None:  # type: ignore[override]
        """The class of each example; None: there are none, or every example has its own."""
        if not len(self) or not self.groups(0):
            return None
        labels = [self.groups(index).get("label", "") for index in range(len(self))]
        return labels if len(set(labels)) < len(labels) else None

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the class of examples with a `label`."""
        fields = self.fields(index, None)
        return {"label": str(fields["label"])} if isinstance(fields.get("label"), int | str) else {}

    def _example(self, index: int) -> Mapping[str, Any]:
        example = self._dataset.get(index, random.Random(index))
        # the small fields are cached, so that the data are not decoded again for them
        self._fields[index] = {name: value for name, value in example.items() if name != self._data_field}
        return example


def resolve_eval_set(
    dataset: str | Path | Dataset | EvalSet | MapStyleDataset | None, model: Model, registry: Registry
) -> EvalSet:
    """Return the evaluation set of a data set, see `evaluate`.

    Raises:
        ConfigError: the name is unknown, the data set is empty, or the model names none.
    """
    if dataset is None and model.recipe.dataset is None:
        raise ConfigError(
            "dataset: got none, and the recipe of the model names none. Name a data set, a recipe or a folder."
        )
    if isinstance(dataset, EvalSet):
        eval_set = dataset
    else:
        if dataset is None:
            dataset = build_dataset(model.recipe, registry)
        elif isinstance(dataset, str | Path):
            dataset = _build_named_dataset(str(dataset), model, registry)
        eval_set = make_eval_set(as_dataset(dataset), model.task.data_field)
    if not len(eval_set):
        raise ConfigError("dataset: got an empty one, expected at least one example to evaluate the model on.")
    return eval_set


def make_eval_set(dataset: Dataset, data_field: str) -> EvalSet:
    """Return the data set's own evaluation set, else one of all its examples."""
    eval_set = dataset.eval_set()
    return DatasetEvalSet(dataset, data_field) if eval_set is None else eval_set


def _build_named_dataset(name: str, model: Model, registry: Registry) -> Dataset:
    """Build a data set by its name (with or without the plugin of the model's task), as a folder, or from a recipe.

    Options that task and data set share, such as the image size, take the values of the task, so that real examples
    have the form of generated ones.
    """
    plugin = model.recipe.task.type.partition(".")[0]
    datasets, recipes = registry.registrations("dataset"), registry.recipes()
    if name in datasets:
        spec = ComponentSpec(type=name)
    elif Path(name).is_dir():
        spec = ComponentSpec.model_validate({"type": f"{plugin}.folder", "folder": name})
    elif f"{plugin}.{name}" in datasets:
        spec = ComponentSpec(type=f"{plugin}.{name}")
    elif name in recipes or Path(name).suffix in {".yaml", ".yml", ".json"}:
        return build_dataset(Recipe.load(name, registry=registry), registry)
    else:
        hint = suggest_or_list(name, [*recipes, *datasets])
        raise ConfigError(f"dataset: got '{name}', expected a data set, a recipe or a folder{hint}")
    dataset: Dataset = build_component(registry, "dataset", spec, **options_of(model.task))
    return dataset


def resolve_languages(eval_set: EvalSet, requested: Sequence[str]) -> list[str | None]:
    """Return the requested languages; all for ("all",), the default one for ().

    Raises:
        ConfigError: a language is unknown.
    """
    available = list(eval_set.languages)
    requested = [requested] if isinstance(requested, str) else requested
    if not requested:
        return [available[0]] if available else [None]
    if list(requested) == ["all"]:
        return [*available] or [None]
    for language in requested:
        if language not in available:
            hint = suggest_or_list(language, available) or "; this data set has no languages: omit them"
            raise ConfigError(f"languages: got '{language}', expected a language of the data set{hint}")
    return [*dict.fromkeys(requested)]


def resolve_split(eval_set: EvalSet, requested: str | None) -> str:
    """Return the requested split, or the default one.

    Raises:
        ConfigError: the split is unknown or empty.
    """
    split = eval_set.splits[0] if requested is None else requested
    if split not in eval_set.splits:
        raise ConfigError(
            f"split: got '{split}', expected a split of the data set{suggest_or_list(split, eval_set.splits)}"
        )
    if not eval_set.indices(split):
        raise ConfigError(f"split: got '{split}', an empty split, expected one of {', '.join(eval_set.splits)}")
    return split


def sample_items(
    eval_set: EvalSet, split: str, languages: Sequence[str | None], num_items: int, seed: int
) -> list[EvalItem]:
    """Draw items: the same `num_items` examples of the split (all, if it has no more) in each language."""
    indices = list(eval_set.indices(split))
    chosen = random.Random(seed).sample(indices, min(num_items, len(indices)))
    return [
        EvalItem(
            eval_set.fields(index, language),
            index,
            {**({} if language is None else {"language": language}), **eval_set.groups(index)},
        )
        for language in languages
        for index in chosen
    ]


def noise_seeds(count: int, num_languages: int, samples_per_prompt: int, seed: int) -> list[int]:
    """Return the noise seed of each generated example; every language has the same, so that only the prompt differs."""
    first = BASE_SEED + seed * SEED_STRIDE
    return [*range(first, first + count * samples_per_prompt)] * num_languages


def reference_index(eval_set: EvalSet, split: str) -> Tensor:
    """Return the indices (P,) of the real examples in a split, ascending."""
    return torch.tensor(sorted(eval_set.indices(split)), dtype=torch.int64)
