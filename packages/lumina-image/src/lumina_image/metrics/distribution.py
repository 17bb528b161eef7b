"""How near the set of pictures that was made is to the real ones: the core's distances, by what a network sees."""

from __future__ import annotations

from lumina_core.config import ComponentSpec
from lumina_core.metrics import distribution
from lumina_image.metrics.features import ImageFeatures

DEFAULT_FEATURE_EXTRACTOR = ComponentSpec(type="image.efficientnet_lite0")


class FrechetDistance(distribution.FrechetDistance):
    """The Frechet distance of pictures; by Inception's features (`feature_extractor: {type: image.inception}`) it is FID."""

    class Config(distribution.FrechetDistance.Config):
        """By which features, and of how many at least."""

        feature_extractor: ImageFeatures = DEFAULT_FEATURE_EXTRACTOR


class KernelDistance(distribution.KernelDistance):
    """The kernel distance of pictures."""

    class Config(distribution.KernelDistance.Config):
        """By which features."""

        feature_extractor: ImageFeatures = DEFAULT_FEATURE_EXTRACTOR


class PrecisionRecall(distribution.PrecisionRecall):
    """Precision and recall of pictures."""

    class Config(distribution.PrecisionRecall.Config):
        """By which features, and how far a picture's neighbourhood reaches."""

        feature_extractor: ImageFeatures = DEFAULT_FEATURE_EXTRACTOR
