"""How near a set of what was made is to the real ones: Frechet and kernel distance, precision and recall."""

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


class Frechet:
    """The Frechet distance between features of what was made and of the real ones it was asked for among.

    0 is best. It falls as more are compared, so that only figures of equally many compare, and of the same features.
    Features whose rows are several `pieces` of equal width give as many samples each.
    """

    name = ""
    figure = "FD"
    """What the distance is called; what a modality knows better it calls so."""

    class Config(Settings):
        """By which features, and of how many at least."""

        features: Use
        fewest: int = Field(50, ge=2, description="no distance is told of fewer things made")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features, self.least = config, features, config.fewest
        self._real: tuple[tuple[int, ...], Gaussian] | None = None

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """`FD`: one figure of the set."""
        return {self.figure: frechet(fit(self._samples(judged.made)), self._known(judged))}

    def notes(self, judged: Judged) -> list[str]:
        """That few samples make a distance larger than it is."""
        count, width = self._samples(judged.made).shape
        if count > width:
            return []
        return [
            f"{self.figure}, {self.features.name}: {count} samples are fewer than its {width} numbers, which makes it "
            "too large; compare it only with one of as many, or take KD"
        ]

    def _known(self, judged: Judged) -> Gaussian:
        # the real ones are the same while parts of the made ones are left out
        depends = (judged.real.data_ptr(), *judged.population.tolist())
        if self._real is None or self._real[0] != depends:
            self._real = (depends, fit(self._samples(judged.real[judged.population])))
        return self._real[1]

    def _samples(self, rows: Tensor) -> Tensor:
        pieces = getattr(self.features, "pieces", 1)
        return rows.reshape(len(rows) * pieces, -1)


class Kernel:
    """The kernel distance between the same sets (KID, where the features are Inception's); few are enough."""

    name, least = "", 10

    class Config(Settings):
        """By which features."""

        features: Use

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """`KD`: one figure of the set, about 0 where both are alike."""
        return {"KD": kernel_distance(judged.made, judged.real[judged.population])}


class PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

    `precision`: the share of those made that lie where real ones are. `recall`: the share of real ones that lie where
    made ones are; it needs about as many made as there are real ones.
    """

    name = ""

    class Config(Settings):
        """By which features, and how far a neighbourhood reaches."""

        features: Use
        k: int = Field(3, ge=1, le=100, description="to which neighbour of its own set the ball around each reaches")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features
        self.least = config.k + 2

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1, and one figure of the set."""
        precise, recalled = precision_recall(judged.made, judged.real[judged.population], self.config.k)
        return {"precision": precise.double(), "recall": float(recalled.double().mean())}
