"""What a model is asked: real examples of any data set as an exam, and the cases that are drawn from it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalItem, EvalSet

BASE_SEED = 1000
"""Noise of the first case; the next have the numbers that follow."""
SEED_STRIDE = 2**32
"""Between the noises of two seeds, so that they share none."""


class DatasetEvalSet(EvalSet):
    """Every example of a data set, asked for by what is said of it. Whatever is drawn in it is drawn once for all."""

    def __init__(self, dataset: Dataset, data_field: str) -> None:
        self._dataset, self._data_field = dataset, data_field
        self._fields: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def reference(self, index: int) -> Tensor:
        """The data of an example.

        Raises:
            ConfigError: the examples have no such field.
        """
        example = self._example(index)
        if self._data_field not in example:
            raise ConfigError(
                f"the model makes '{self._data_field}', and the examples of this data set hold only: {', '.join(example)}"
            )
        data: Tensor = example[self._data_field]
        return data

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Every field but the data."""
        if index not in self._fields:
            self._example(index)
        return self._fields[index]

    def groups(self, index: int) -> Mapping[str, str]:
        """Its class, where examples have a `label`."""
        fields = self.fields(index, None)
        return {"label": str(fields["label"])} if isinstance(fields.get("label"), int | str) else {}

    def _example(self, index: int) -> Mapping[str, Any]:
        example = self._dataset.get(index, random.Random(index))
        # words are kept, so that a picture is not read again for them
        self._fields[index] = {field: value for field, value in example.items() if field != self._data_field}
        return example


def make_eval_set(dataset: Dataset, data_field: str) -> EvalSet:
    """The data set's own exam, or the plain one.

    Raises:
        ConfigError: there is nothing in it.
    """
    eval_set = dataset.eval_set()
    if eval_set is None:
        eval_set = DatasetEvalSet(dataset, data_field)
    if not len(eval_set):
        raise ConfigError("the data set is empty: there is nothing to judge a model by")
    return eval_set


def resolve_languages(eval_set: EvalSet, requested: Sequence[str]) -> list[str | None]:
    """The languages to ask in: those that are named, all for ("all",), the usual one for none.

    Raises:
        ConfigError: one is not known.
    """
    available = list(eval_set.languages)
    if not requested:
        return [available[0]] if available else [None]
    if list(requested) == ["all"]:
        return [*available] or [None]
    for language in requested:
        if language not in available:
            hint = suggest_or_list(language, available) or "; this data set knows no languages, leave --languages out"
            raise ConfigError(f"nothing can be asked in '{language}'{hint}")
    return [*dict.fromkeys(requested)]


def resolve_split(eval_set: EvalSet, requested: str | None) -> str:
    """The split that is named, or the usual one.

    Raises:
        ConfigError: it is not known, or holds nothing.
    """
    split = eval_set.splits[0] if requested is None else requested
    if split not in eval_set.splits:
        raise ConfigError(f"this data set has no split '{split}'{suggest_or_list(split, eval_set.splits)}")
    if not eval_set.indices(split):
        raise ConfigError(f"the split '{split}' of this data set is empty; choose one of: {', '.join(eval_set.splits)}")
    return split


def sample_items(
    eval_set: EvalSet, split: str, languages: Sequence[str | None], num_items: int, seed: int
) -> list[EvalItem]:
    """The cases: the same `samples` examples of the split (all, where it has no more) in each language."""
    indices = list(eval_set.indices(split))
    chosen = random.Random(seed).sample(indices, min(num_items, len(indices)))
    return [_make_item(eval_set, index, language) for language in languages for index in chosen]


def noise_seeds(count: int, num_languages: int, samples_per_prompt: int, seed: int) -> list[int]:
    """Of the noise of each thing that is made: one language after another gets the same, so that only words differ."""
    one_language = range(BASE_SEED + seed * SEED_STRIDE, BASE_SEED + seed * SEED_STRIDE + count * samples_per_prompt)
    return [number for _ in range(num_languages) for number in one_language]


def reference_index(eval_set: EvalSet, split: str) -> Tensor:
    """(P,) the real examples that a split asks for, rising."""
    return torch.tensor(sorted(eval_set.indices(split)), dtype=torch.int64)


def _make_item(eval_set: EvalSet, index: int, language: str | None) -> EvalItem:
    groups = {} if language is None else {"language": language}
    return EvalItem(eval_set.fields(index, language), index, {**groups, **eval_set.groups(index)})
