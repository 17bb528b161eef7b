"""Features of pictures that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ShapeError
from lumina_core.measures.batches import of_one_size
from lumina_core.measures.similarity import by_default
from lumina_image.nearest import thumbnails
from lumina_image.task import levels

LookedAt = Annotated[Use, by_default("image.efficientnet_lite0")]
"""Features, a network's where only options are named."""
ReadAndLookedAt = Annotated[Use, by_default("image.clip")]
"""Features of pictures and texts, CLIP's where only options are named."""


class Coarse:
    """A picture as 16x16 colours: the mean over 2x2 blocks at 32 px."""

    name, key = "coarse pixels", "coarse 16x16"

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 768) float64 in 0..1."""
        rows = [thumbnails(part.permute(0, 2, 3, 1).numpy()) for part in of_one_size(as_saved(items))]
        return torch.from_numpy(np.concatenate(rows))


def as_saved(items: Sequence[Tensor]) -> list[Tensor]:
    """Pictures as their files would keep them, (3, H, W) of 0..255 uint8: judged is what is seen.

    Raises:
        ShapeError: one is no picture.
    """
    for item in items:
        if item.ndim != 3 or item.shape[0] != 3:
            raise ShapeError(f"metrics of pictures compare (3, rows, columns); this model makes {tuple(item.shape)}")
    return [levels(item).cpu() for item in items]
