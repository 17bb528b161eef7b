"""Distribution metrics of the core with audio features as default."""

from __future__ import annotations

from typing import Annotated

from lumina_core.config import ComponentSpec
from lumina_core.metrics import default_component, distribution
from lumina_core.protocols import FeatureExtractor

FeatureExtractorSpec = Annotated[ComponentSpec, default_component("audio.efficientnet_lite0")]
"""Feature extractor; EfficientNet-Lite0 if only options are set."""
DEFAULT_FEATURE_EXTRACTOR = ComponentSpec(type="audio.efficientnet_lite0")


class FrechetDistance(distribution.FrechetDistance):
    """Frechet distance between generated and real audio.

    With the features of VGGish (`feature_extractor: {type: audio.vggish, weights: FILE}`) it is the Frechet audio
    distance `FAD` of arXiv 1812.08466, with one sample per 0.96 s; with other features it is `FD`.
    """

    class Config(distribution.FrechetDistance.Config):
        """Feature extractor, and smallest number of clips."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        super().__init__(config, feature_extractor)
        self.value_name = "FAD" if config.feature_extractor.type == "audio.vggish" else "FD"


class KernelDistance(distribution.KernelDistance):
    """Kernel distance between generated and real audio; unbiased for few clips."""

    class Config(distribution.KernelDistance.Config):
        """Feature extractor."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR


class PrecisionRecall(distribution.PrecisionRecall):
    """Precision and recall of generated audio."""

    class Config(distribution.PrecisionRecall.Config):
        """Feature extractor, and number of neighbors."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR
