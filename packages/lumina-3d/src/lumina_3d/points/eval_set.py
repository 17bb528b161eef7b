"""Evaluation set of the parametric families: real clouds with captions, attributes and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lumina_3d.families.captions import CLASS_NAMES, full_caption
from lumina_core.protocols import EvalSet

if TYPE_CHECKING:
    from lumina_3d.points.dataset import FamilyClouds

EVAL_COUNT = 2048
"""Points per cloud, that of the published protocols."""


class FamilyEvalSet(EvalSet):
    """Clouds of 2048 points of the shapes of a data set, with the fields caption, label, family, attributes, count.

    The caption names every attribute and no colour; in another language than English it is the class name.
    """

    languages: Sequence[str] = tuple(CLASS_NAMES)

    def __init__(self, dataset: FamilyClouds) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def reference(self, index: int) -> Tensor:
        """Return points (3, 2048) in [-1, 1]."""
        return self._dataset.cloud(index, EVAL_COUNT)

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return caption, label, family, attributes, and the number of points."""
        shape = self._dataset.shape(index)
        english = language in (None, "en")
        caption = full_caption(shape, with_color=False) if english else CLASS_NAMES[str(language)][shape.label]
        return {
            "caption": caption,
            "label": shape.label,
            "family": shape.family,
            "attributes": dict(shape.attributes) if english else {},
            "count": EVAL_COUNT,
        }

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the family of a shape."""
        return {"family": self._dataset.shape(index).family}
