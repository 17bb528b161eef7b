"""How near the set of sounds that was made is to the real ones: the core's distances, called by their features."""

from __future__ import annotations

from typing import Annotated

from lumina_core.config import ComponentSpec
from lumina_core.metrics import default_component, distribution
from lumina_core.protocols import FeatureExtractor

FeatureExtractorSpec = Annotated[ComponentSpec, default_component("audio.efficientnet_lite0")]
"""Features, the offline network's where only options are named."""
DEFAULT_FEATURE_EXTRACTOR = ComponentSpec(type="audio.efficientnet_lite0")


class FrechetDistance(distribution.FrechetDistance):
    """The Frechet distance of sounds.

    By VGGish's features (`feature_extractor: {type: audio.vggish, weights: FILE}`) it is the Frechet audio distance `FAD` of
    arXiv 1812.08466, a sample each 0.96 s; by any other it is `FD`, and is no FAD.
    """

    class Config(distribution.FrechetDistance.Config):
        """By which features, and of how many at least."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        super().__init__(config, feature_extractor)
        self.value_name = "FAD" if config.feature_extractor.type == "audio.vggish" else "FD"


class KernelDistance(distribution.KernelDistance):
    """The kernel distance of sounds; few are enough."""

    class Config(distribution.KernelDistance.Config):
        """By which features."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR


class PrecisionRecall(distribution.PrecisionRecall):
    """Precision and recall of sounds."""

    class Config(distribution.PrecisionRecall.Config):
        """By which features, and how far a sound's neighbourhood reaches."""

        feature_extractor: FeatureExtractorSpec = DEFAULT_FEATURE_EXTRACTOR
