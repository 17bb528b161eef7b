"""What a model is asked: real examples of any data set as an exam, and the cases that are drawn from it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import nearest
from lumina_core.errors import ConfigError
from lumina_core.judging import Case, Exam
from lumina_core.parts import Dataset

FIRST_SEED = 1000
"""Noise of the first case; the next have the numbers that follow."""
SPAN = 2**32
"""Between the noises of two seeds, so that they share none."""


class PlainExam:
    """Every example of a data set, asked for by what is said of it. Whatever is drawn in it is drawn once for all."""

    languages: Sequence[str] = ()
    splits: Sequence[str] = ("all",)
    families: Sequence[str] | None = None

    def __init__(self, dataset: Dataset, data_field: str) -> None:
        self._dataset, self._field = dataset, data_field
        self._said: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def reference(self, index: int) -> Tensor:
        """The data of an example.

        Raises:
            ConfigError: the examples have no such field.
        """
        example = self._example(index)
        if self._field not in example:
            raise ConfigError(
                f"the model makes '{self._field}', and the examples of this data set hold only: {', '.join(example)}"
            )
        data: Tensor = example[self._field]
        return data

    def places(self, split: str) -> Sequence[int]:
        """All."""
        return range(len(self))

    def said(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Every field but the data."""
        if index not in self._said:
            self._example(index)
        return self._said[index]

    def groups(self, index: int) -> Mapping[str, str]:
        """Its class, where examples have a `label`."""
        said = self.said(index, None)
        return {"label": str(said["label"])} if isinstance(said.get("label"), int | str) else {}

    def digest(self) -> str:
        """Of the numbers of every example."""
        found = hashlib.sha256()
        for index in range(len(self)):
            data = self.reference(index)
            found.update(str(tuple(data.shape)).encode() + data.contiguous().numpy().tobytes())
        return found.hexdigest()

    def _example(self, index: int) -> Mapping[str, Any]:
        example = self._dataset.example(index, random.Random(index))
        # words are kept, so that a picture is not read again for them
        self._said[index] = {field: value for field, value in example.items() if field != self._field}
        return example


def exam_of(dataset: Dataset, data_field: str) -> Exam:
    """The data set's own exam, or the plain one.

    Raises:
        ConfigError: there is nothing in it.
    """
    exam: Exam = dataset.exam() if hasattr(dataset, "exam") else PlainExam(dataset, data_field)
    if not len(exam):
        raise ConfigError("the data set is empty: there is nothing to judge a model by")
    return exam


def languages_of(exam: Exam, asked: Sequence[str]) -> list[str | None]:
    """The languages to ask in: those that are named, all for ("all",), the usual one for none.

    Raises:
        ConfigError: one is not known.
    """
    known = list(exam.languages)
    if not asked:
        return [known[0]] if known else [None]
    if list(asked) == ["all"]:
        return [*known] or [None]
    for language in asked:
        if language not in known:
            said = nearest(language, known) or "; this data set knows no languages, leave --languages out"
            raise ConfigError(f"nothing can be asked in '{language}'{said}")
    return [*dict.fromkeys(asked)]


def split_of(exam: Exam, asked: str | None) -> str:
    """The split that is named, or the usual one.

    Raises:
        ConfigError: it is not known, or holds nothing.
    """
    split = exam.splits[0] if asked is None else asked
    if split not in exam.splits:
        raise ConfigError(f"this data set has no split '{split}'{nearest(split, exam.splits)}")
    if not exam.places(split):
        raise ConfigError(f"the split '{split}' of this data set is empty; choose one of: {', '.join(exam.splits)}")
    return split


def drawn(exam: Exam, split: str, languages: Sequence[str | None], samples: int, seed: int) -> list[Case]:
    """The cases: the same `samples` examples of the split (all, where it has no more) in each language."""
    places = list(exam.places(split))
    chosen = random.Random(seed).sample(places, min(samples, len(places)))
    return [_case(exam, place, language) for language in languages for place in chosen]


def seeds(count: int, languages: int, each: int, seed: int) -> list[int]:
    """Of the noise of each thing that is made: one language after another gets the same, so that only words differ."""
    once = range(FIRST_SEED + seed * SPAN, FIRST_SEED + seed * SPAN + count * each)
    return [number for _ in range(languages) for number in once]


def population(exam: Exam, split: str) -> Tensor:
    """(P,) the real examples that a split asks for, rising."""
    return torch.tensor(sorted(exam.places(split)), dtype=torch.int64)


def _case(exam: Exam, place: int, language: str | None) -> Case:
    groups = {} if language is None else {"language": language}
    return Case(exam.said(place, language), place, {**groups, **exam.groups(place)})
