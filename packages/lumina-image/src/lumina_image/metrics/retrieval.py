"""Does a picture show what was asked: is the right one the nearest among all real pictures?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.judging import Features, Judged
from lumina_core.measures.neighbours import nearest_in, ranks
from lumina_image.metrics.looks import LookedAt
from lumina_image.nearest import SLACK


class Retrieval:
    """The shares of pictures that find what they were asked for, by squared distance of features. Our own measure.

    `top1`, `top5`: the right one is the nearest, or among the five nearest, of all real pictures. `family`: one of the
    right family is the nearest of all (a face in another skin tone, say). `within_family`: among its own family the
    right one is the nearest; told of those that have a family. Pictures that are drawn alike count as one.
    """

    name, least = "retrieval", 1

    class Config(Settings):
        """By which features."""

        features: Use = Use(use="image.coarse")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1 each."""
        found = ranks(judged.made, judged.right, judged.real, SLACK)
        told: dict[str, Tensor | float] = {"top1": (found < 1).double(), "top5": (found < 5).double()}
        return told if judged.families is None else told | _family(judged, judged.families)


class FeatureRetrieval(Retrieval):
    """The same by what a network sees rather than by colours in their places."""

    class Config(Retrieval.Config):
        """By which features."""

        features: LookedAt = Use(use="image.efficientnet_lite0")


def _family(judged: Judged, families: Sequence[str]) -> dict[str, Tensor]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(families))}
    of = torch.tensor([numbers[name] for name in families])
    belongs = of[judged.right][:, None] == of
    inside, outside = nearest_in(judged.made, judged.real, belongs)
    right = (judged.made.double() - judged.real[judged.right].double()).square().sum(1)
    within = (right <= inside + SLACK).double()
    within[belongs.sum(1) < 2] = torch.nan
    return {"family": (inside <= outside + SLACK).double(), "within_family": within}
