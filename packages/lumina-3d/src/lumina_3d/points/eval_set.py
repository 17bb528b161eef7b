"""Evaluation set of the parametric families: real clouds with captions, attributes and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_3d.families.captions import CLASS_NAMES, full_caption
from lumina_3d.families.shapes import Shape, Split, make_shape
from lumina_core.protocols import EvalSet

EVAL_COUNT = 2048
"""Points per cloud, that of the published protocols."""
EVAL_PER_FAMILY = 100
"""Shapes per family and split."""
SPLITS: tuple[Split, ...] = ("test", "held_out", "train")


class FamilyEvalSet(EvalSet):
    """Clouds of 2048 points of new shapes, with the fields caption, label, family, attributes and count.

    The caption names every attribute and no colour; in another language than English it is the class name. The splits
    are new draws (`test`), combinations of attributes that training never has (`held_out`), and training shapes.

    Args:
        families: names of families.
        seed: of the shapes, that of the data set.
        per_family: shapes per family and split.
    """

    languages: Sequence[str] = tuple(CLASS_NAMES)
    splits: Sequence[str] = SPLITS

    def __init__(self, families: Sequence[str], seed: int, per_family: int = EVAL_PER_FAMILY) -> None:
        self._families, self._seed, self._per_family = families, seed, per_family

    def __len__(self) -> int:
        return len(SPLITS) * self._split_size

    def reference(self, index: int) -> Tensor:
        """Return points (3, 2048) in [-1, 1]."""
        points, _ = self._shape(index).mesh.sample(EVAL_COUNT, np.random.default_rng((self._seed, index, 7)))
        return torch.from_numpy(np.ascontiguousarray(2 * points.T, dtype=np.float32))

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return caption, label, family, attributes, and the number of points."""
        shape = self._shape(index)
        english = language in (None, "en")
        caption = full_caption(shape, with_color=False) if english else CLASS_NAMES[str(language)][shape.label]
        return {
            "caption": caption,
            "label": shape.label,
            "family": shape.family,
            "attributes": dict(shape.attributes) if english else {},
            "count": EVAL_COUNT,
        }

    def indices(self, split: str) -> Sequence[int]:
        """Return the indices of a split."""
        start = SPLITS.index(split) * self._split_size
        return range(start, start + self._split_size)

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the family of a shape."""
        return {"family": self._shape(index).family}

    @property
    def _split_size(self) -> int:
        return self._per_family * len(self._families)

    def _shape(self, index: int) -> Shape:
        split, row = divmod(index, self._split_size)
        number, family = divmod(row, len(self._families))
        return make_shape(self._families[family], number, SPLITS[split], seed=self._seed)
