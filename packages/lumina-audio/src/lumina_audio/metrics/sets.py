"""How near the set of sounds that was made is to the real ones: the core's distances, called by their features."""

from __future__ import annotations

from typing import Annotated

from lumina_core.config import Use
from lumina_core.judging import Features
from lumina_core.measures import sets
from lumina_core.measures.similarity import by_default

Heard = Annotated[Use, by_default("audio.efficientnet_lite0")]
"""Features, the offline network's where only options are named."""
LITE0 = Use(use="audio.efficientnet_lite0")


class Frechet(sets.Frechet):
    """The Frechet distance of sounds.

    By VGGish's features (`features: {use: audio.vggish, weights: FILE}`) it is the Frechet audio distance `FAD` of
    arXiv 1812.08466, a sample each 0.96 s; by any other it is `FD`, and is no FAD.
    """

    class Config(sets.Frechet.Config):
        """By which features, and of how many at least."""

        features: Heard = LITE0

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.figure = "FAD" if config.features.use == "audio.vggish" else "FD"


class Kernel(sets.Kernel):
    """The kernel distance of sounds; few are enough."""

    class Config(sets.Kernel.Config):
        """By which features."""

        features: Heard = LITE0


class PrecisionRecall(sets.PrecisionRecall):
    """Precision and recall of sounds."""

    class Config(sets.PrecisionRecall.Config):
        """By which features, and how far a sound's neighbourhood reaches."""

        features: Heard = LITE0
