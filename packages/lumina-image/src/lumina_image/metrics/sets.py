"""How near the set of pictures that was made is to the real ones: Frechet distance, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.judging import Features, Judged
from lumina_core.measures.frechet import Gaussian, fit, frechet
from lumina_core.measures.kernel import kernel_distance
from lumina_core.measures.neighbours import precision_recall
from lumina_image.metrics.looks import LookedAt

LITE0 = Use(use="image.efficientnet_lite0")


class Frechet:
    """The Frechet distance between features of what was made and of the real pictures it was asked for among.

    0 is best. It falls as more pictures are compared, so that only figures of equally many compare, and of the same
    features: FID is this one by Inception's (`features: {use: image.inception}`).
    """

    name = ""

    class Config(Settings):
        """By which features, and of how many at least."""

        features: LookedAt = LITE0
        fewest: int = Field(50, ge=2, description="no distance is told of fewer pictures")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features, self.least = config, features, config.fewest
        self._real: tuple[tuple[int, ...], Gaussian] | None = None

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """`FD`: one figure of the set."""
        return {"FD": frechet(fit(judged.made), self._known(judged))}

    def notes(self, judged: Judged) -> list[str]:
        """That few pictures make a distance larger than it is."""
        count, width = judged.made.shape
        if count > width:
            return []
        return [
            f"FD, {self.features.name}: {count} pictures are fewer than its {width} numbers, which makes it too large; "
            "compare it only with one of as many, or take KD"
        ]

    def _known(self, judged: Judged) -> Gaussian:
        # the real ones are the same while parts of the made ones are left out
        depends = (judged.real.data_ptr(), *judged.population.tolist())
        if self._real is None or self._real[0] != depends:
            self._real = (depends, fit(judged.real[judged.population]))
        return self._real[1]


class Kernel:
    """The kernel distance between the same sets (KID, where the features are Inception's); few pictures are enough."""

    name, least = "", 10

    class Config(Settings):
        """By which features."""

        features: LookedAt = LITE0

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """`KD`: one figure of the set, about 0 where both are alike."""
        return {"KD": kernel_distance(judged.made, judged.real[judged.population])}


class PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

    `precision`: the share of pictures made that lie where real ones are. `recall`: the share of real ones that lie
    where made ones are; it needs about as many made as there are real ones.
    """

    name = ""

    class Config(Settings):
        """By which features, and how far a picture's neighbourhood reaches."""

        features: LookedAt = LITE0
        k: int = Field(3, ge=1, le=100, description="to which neighbour of its own set a picture's ball reaches")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features
        self.least = config.k + 2

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1, and one figure of the set."""
        precise, recalled = precision_recall(judged.made, judged.real[judged.population], self.config.k)
        return {"precision": precise.double(), "recall": float(recalled.double().mean())}
