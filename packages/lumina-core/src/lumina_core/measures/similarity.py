"""Does what was made say its words: the cosine between both, by features that read texts too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BeforeValidator
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.judging import Judged


def by_default(use: str) -> BeforeValidator:
    """Options without a name are those of the usual features: `features.side=224` says enough."""
    return BeforeValidator(lambda told: {"use": use, **told} if isinstance(told, dict) and "use" not in told else told)


class Similarity:
    """The cosine between what was made and its caption (the measure of arXiv 2104.08718, not scaled).

    `similarity`: of what was made. `similarity_of_real`: of the real ones with the same captions, which says how much
    can be expected of features that were taught something else.

    Its features have `texts(Sequence[str]) -> (M, D)` of unit length, as their rows are.
    """

    name, least = "", 1

    class Config(Settings):
        """By which features."""

        features: Use

    def __init__(self, config: Config, features: Any) -> None:
        if not hasattr(features, "texts"):
            usual = type(config).model_fields["features"].get_default(call_default_factory=False)
            such = f", such as {usual.use}" if isinstance(usual, Use) else ""
            raise ConfigError(f"a similarity needs features that read texts too{such}; got {config.features.use}")
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) cosines each."""
        said = [case.said.get("caption") for case in judged.cases]
        if not all(isinstance(text, str) for text in said):
            raise ConfigError("a similarity compares with captions, and this data set has none")
        texts = self._texts([str(text) for text in said])
        return {
            "similarity": (judged.made * texts).sum(1),
            "similarity_of_real": (judged.real[judged.right] * texts).sum(1),
        }

    def _texts(self, said: Sequence[str]) -> Tensor:
        # many cases say the same
        places = {text: place for place, text in enumerate(dict.fromkeys(said))}
        found: Tensor = self.features.texts(list(places))
        return found[torch.tensor([places[text] for text in said])]
