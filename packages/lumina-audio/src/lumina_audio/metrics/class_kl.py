"""Is what was made taken for the same thing as its real counterpart: by what a classifier says of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.metrics import default_component
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

ClassifierSpec = Annotated[ComponentSpec, default_component("audio.instrument_classifier")]
"""Features of a classifier, that trained here where only options are named."""


class ClassKL(Metric):
    """The Kullback-Leibler divergence from a classifier's answer of a real sound to that of what was made for it.

    `KL`: sum of p_real (log p_real - log p_made), a mean over pairs, 0 is best; as in the evaluation of AudioLDM
    (arXiv 2301.12503), whose classifier is PANNs' (`feature_extractor: {type: audio.panns, weights: FILE, output: classes}`).
    `top1_agreement`: the likeliest class is the same for both.

    Its features are logarithms of chances, or what a softmax makes them of, of the classes named in `classes`.
    """

    class Config(Settings):
        """By which classifier."""

        feature_extractor: ClassifierSpec = ComponentSpec.model_validate(
            {"type": "audio.instrument_classifier", "output": "classes"}
        )

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        if not feature_extractor.classes:
            raise ConfigError(
                "audio.class_kl needs features that are answers of a classifier, such as "
                f"audio.instrument_classifier with output=classes; got {config.feature_extractor.type}"
            )
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """(M,) each."""
        generated = torch.log_softmax(inputs.generated.double(), 1)
        real = torch.log_softmax(inputs.real[inputs.target_index].double(), 1)
        return {
            "KL": (real.exp() * (real - generated)).sum(1).clamp(min=0),
            "top1_agreement": (generated.argmax(1) == real.argmax(1)).double(),
        }
