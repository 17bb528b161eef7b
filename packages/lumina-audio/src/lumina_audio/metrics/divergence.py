"""Is what was made taken for the same thing as its real counterpart: by what a classifier says of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.judging import Features, Judged
from lumina_core.measures.similarity import by_default

Classified = Annotated[Use, by_default("audio.classifier")]
"""Features of a classifier, that trained here where only options are named."""


class ClassDivergence:
    """The Kullback-Leibler divergence from a classifier's answer of a real sound to that of what was made for it.

    `KL`: sum of p_real (log p_real - log p_made), a mean over pairs, 0 is best; as in the evaluation of AudioLDM
    (arXiv 2301.12503), whose classifier is PANNs' (`features: {use: audio.panns, weights: FILE, gives: classes}`).
    `right`: the likeliest class is the same for both.

    Its features are logarithms of chances, or what a softmax makes them of, of the classes named in `classes`.
    """

    name, least = "", 1

    class Config(Settings):
        """By which classifier."""

        features: Classified = Use.model_validate({"use": "audio.classifier", "gives": "classes"})

    def __init__(self, config: Config, features: Features) -> None:
        if not getattr(features, "classes", ()):
            raise ConfigError(
                "audio.class_divergence needs features that are answers of a classifier, such as "
                f"audio.classifier with gives=classes; got {config.features.use}"
            )
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) each."""
        made = torch.log_softmax(judged.made.double(), 1)
        real = torch.log_softmax(judged.real[judged.right].double(), 1)
        return {
            "KL": (real.exp() * (real - made)).sum(1).clamp(min=0),
            "right": (made.argmax(1) == real.argmax(1)).double(),
        }
