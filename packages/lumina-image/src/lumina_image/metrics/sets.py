"""How near the set of pictures that was made is to the real ones: the core's distances, by what a network sees."""

from __future__ import annotations

from lumina_core.config import Use
from lumina_core.measures import sets
from lumina_image.metrics.looks import LookedAt

LITE0 = Use(use="image.efficientnet_lite0")


class Frechet(sets.Frechet):
    """The Frechet distance of pictures; by Inception's features (`features: {use: image.inception}`) it is FID."""

    class Config(sets.Frechet.Config):
        """By which features, and of how many at least."""

        features: LookedAt = LITE0


class Kernel(sets.Kernel):
    """The kernel distance of pictures."""

    class Config(sets.Kernel.Config):
        """By which features."""

        features: LookedAt = LITE0


class PrecisionRecall(sets.PrecisionRecall):
    """Precision and recall of pictures."""

    class Config(sets.PrecisionRecall.Config):
        """By which features, and how far a picture's neighbourhood reaches."""

        features: LookedAt = LITE0
