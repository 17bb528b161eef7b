"""Does what was made say its words: the cosine between both, by features that read texts too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric, TextFeatureExtractor


class TextSimilarity(Metric):
    """The cosine between what was made and its caption (the measure of arXiv 2104.08718, not scaled).

    `similarity`: of what was made. `similarity_of_real`: of the real ones with the same captions, which says how much
    can be expected of features that were taught something else.

    Its features have `texts(Sequence[str]) -> (M, D)` of unit length, as their rows are.
    """

    class Config(Settings):
        """By which features."""

        feature_extractor: ComponentSpec

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        if not isinstance(feature_extractor, TextFeatureExtractor):
            default = type(config).model_fields["feature_extractor"].get_default(call_default_factory=False)
            example = f", such as {default.type}" if isinstance(default, ComponentSpec) else ""
            raise ConfigError(
                f"a similarity needs features that read texts too{example}; got {config.feature_extractor.type}"
            )
        self.config = config
        self.feature_extractor: TextFeatureExtractor = feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """(M,) cosines each."""
        captions = [item.fields.get("caption") for item in inputs.items]
        if not all(isinstance(text, str) for text in captions):
            raise ConfigError("a similarity compares with captions, and this data set has none")
        texts = self._embed_texts([str(text) for text in captions])
        return {
            "similarity": (inputs.generated * texts).sum(1),
            "similarity_of_real": (inputs.real[inputs.target_index] * texts).sum(1),
        }

    def _embed_texts(self, captions: Sequence[str]) -> Tensor:
        # many cases say the same
        positions = {text: position for position, text in enumerate(dict.fromkeys(captions))}
        embeddings = self.feature_extractor.encode_texts(list(positions))
        return embeddings[torch.tensor([positions[text] for text in captions])]
