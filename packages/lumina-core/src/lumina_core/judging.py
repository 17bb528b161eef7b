"""What models are judged by: contracts of exams, features and metrics, and what travels between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One thing that a model is asked when it is judged.

    Attributes:
        said: what is said of the example, by field; a task's `asked` makes a request of it.
        reference: place of the real example that should come out.
        groups: what the case belongs to, {"language": "en", "group": "Flags"}; figures are told for each of them too.
    """

    said: Mapping[str, Any]
    reference: int
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What a metric looks at: M things that were made, N real ones.

    Attributes:
        made: (M, D) features of what was made, one row a case.
        real: (N, D) features of the real examples; `Case.reference` is a row of them.
        cases: what each of the M was asked for.
        population: the rows of `real` that the cases were drawn among, rising.
        families: for each of the N the name of those that belong together (variants of one thing); None: not known.
    """

    made: Tensor
    real: Tensor
    cases: Sequence[Case]
    population: Tensor
    families: Sequence[str] | None = None

    def only(self, places: Sequence[int], population: Tensor | None = None) -> Judged:
        """Some of the cases, by their places; `population`: another one, None: the same."""
        kept = self.population if population is None else population
        rows = self.made[torch.as_tensor(places, dtype=torch.int64)]
        return replace(self, made=rows, cases=[self.cases[place] for place in places], population=kept)

    @property
    def right(self) -> Tensor:
        """(M,) which row of `real` each should have come near to."""
        return torch.tensor([case.reference for case in self.cases], dtype=torch.int64)


class Asker(Protocol):
    """A task whose models can be judged: it can ask for an example again."""

    def asked(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is said of an example, by its fields -> the fields of a request for it.

        Raises:
            ConfigError: too little is said of it.
        """
        ...


class Exam(Protocol):
    """What models are judged by: real examples, and what to say so as to get each of them again.

    A data set that knows more than its examples tell brings its own by a method `exam() -> Exam`.
    """

    @property
    def languages(self) -> Sequence[str]:
        """Languages to ask in, the usual one first; empty where there is only one way to ask."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Parts to ask for, the usual one first."""
        ...

    @property
    def families(self) -> Sequence[str] | None:
        """For each real example the name of those that belong together; None where nothing is known."""
        ...

    def __len__(self) -> int:
        """N, how many real examples there are to be compared with."""
        ...

    def reference(self, index: int) -> Tensor:
        """A real example as a model would make it, (channels, ...) in [-1, 1]."""
        ...

    def places(self, split: str) -> Sequence[int]:
        """Which of the real examples a split asks for."""
        ...

    def said(self, index: int, language: str | None) -> Mapping[str, Any]:
        """What is said of an example, by field; None: in the usual language."""
        ...

    def groups(self, index: int) -> Mapping[str, str]:
        """What an example belongs to, {"kind": "a flag"}; figures are told for each group too."""
        ...

    def digest(self) -> str:
        """Changes whenever a real example does; what is known of the examples is stored under it."""
        ...


class Features(Protocol):
    """Data -> the numbers by which it is compared: a network's, or plain ones. Each item alone decides its row.

    May have `libraries`, names of distributions whose versions are told beside the figures.
    """

    name: str
    """Said beside every figure that rests on it: `EfficientNet-Lite0`."""
    key: str
    """Changes whenever the numbers do (another network, other weights, another size)."""

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """B items (channels, ...) in about [-1, 1] -> (B, D) on the CPU.

        Raises:
            ShapeError: they are no data of this modality.
        """
        ...


class Metric(Protocol):
    """Says how good what a model made is. Only features are kept of each item, so that any number can be judged.

    One that has more to say of its figures may have `notes(judged) -> list[str]`.
    """

    name: str
    """In a table, before the figure's own name."""
    features: Features
    least: int
    """Fewest cases that a figure can be told of."""

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """The figures by name. (M,): a number an item, whose mean it is, NaN where it does not apply to an item;
        a float: one of the whole set."""
        ...
