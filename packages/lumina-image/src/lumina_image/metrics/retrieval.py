"""Retrieval of the target among all real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.metrics.base import MetricConfig
from lumina_core.metrics.retrieval_precision_recall import nearest_in_group, target_ranks
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

TIE_TOLERANCE = 1e-9
"""Distances that differ by less are ties: identical images (some flags) differ by rounding only."""


class Retrieval(Metric):
    """Share of generated images whose nearest real image is their target, by squared distance of features.

    Scores: `top1` and `top5`, the target is the nearest, or among the five nearest, of all real images; `family`, an
    image of the target's family (a face in another skin tone, say) is the nearest; `within_family`, the target is the
    nearest of its family, for images with a family. Identical images count as one.
    """

    name = "retrieval"

    class Config(MetricConfig):
        """Features of the images."""

        feature_extractor: ComponentSpec = ComponentSpec(type="image.pixel_features")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute the scores, each (M,) of 0 and 1."""
        ranks = target_ranks(inputs.generated, inputs.target_index, inputs.real, TIE_TOLERANCE)
        values: dict[str, Tensor | float] = {"top1": (ranks < 1).double(), "top5": (ranks < 5).double()}
        return values if inputs.families is None else values | _family_scores(inputs, inputs.families)


def _family_scores(inputs: EvalInputs, families: Sequence[str]) -> dict[str, Tensor]:
    family_ids = {name: index for index, name in enumerate(dict.fromkeys(families))}
    family_index = torch.tensor([family_ids[name] for name in families])
    same_family = family_index[inputs.target_index][:, None] == family_index
    nearest_in_family, nearest_outside = nearest_in_group(inputs.generated, inputs.real, same_family)
    target_distance = (inputs.generated.double() - inputs.real[inputs.target_index].double()).square().sum(1)
    within_family = (target_distance <= nearest_in_family + TIE_TOLERANCE).double()
    within_family[same_family.sum(1) < 2] = torch.nan
    return {"family": (nearest_in_family <= nearest_outside + TIE_TOLERANCE).double(), "within_family": within_family}
