"""Metrics of point clouds for `lumina evaluate`: MMD, COV, 1-NNA, JSD, density, attributes and class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lumina_3d.families.measure import measure
from lumina_3d.points.distances import (
    EMD_POINTS,
    FloatArray,
    chamfer_table,
    coverage,
    density_scores,
    emd_table,
    jensen_shannon,
    mmd,
    nearest_neighbor_accuracy,
)
from lumina_3d.points.normalize import center_and_scale
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.metrics.base import MetricConfig
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

COORDINATES = ComponentSpec(type="3d.point_coordinates")


class PointCoordinates(FeatureExtractor):
    """Coordinates of a cloud as features, normalized by a protocol."""

    data_field = "points"

    class Config(Settings):
        """Protocol and number of points."""

        protocol: Literal["luo", "pointflow"] = Field(
            "luo", description="luo: each cloud's box in [-1, 1]; pointflow: raw coordinates"
        )
        count: int = Field(2048, ge=4, description="points per cloud; more are thinned out by a seed, fewer an error")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.name = f"{config.count} points, {config.protocol}"
        self.key = f"points-{config.protocol}-{config.count}"

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map clouds (3, N) to rows (B, 3 count): x, y and z of each point.

        Raises:
            ShapeError: a cloud has another shape, or fewer points than `count`.
        """
        rows = []
        for item in items:
            if item.ndim != 2 or item.shape[0] != 3 or item.shape[1] < self.config.count:
                raise ShapeError(
                    f"cloud: got the shape {tuple(item.shape)}, expected (3, N) with N at least {self.config.count}. "
                    "Generate more points, or set feature_extractor.count."
                )
            points = item.T.double().numpy()
            if len(points) > self.config.count:
                chosen = np.random.default_rng(0).choice(len(points), size=self.config.count, replace=False)
                points = points[np.sort(chosen)]
            if self.config.protocol == "luo":
                points = center_and_scale(points)
            rows.append(torch.from_numpy(points.astype(np.float32)).flatten())
        return torch.stack(rows)


class PointMetricConfig(MetricConfig):
    """Features of a metric of point clouds."""

    feature_extractor: ComponentSpec = Field(COORDINATES, description="coordinates to compare")


class PairCache:
    """Distances between clouds, each computed once, whatever subsets are compared.

    Args:
        table: computes the distances between two sets of clouds.
    """

    def __init__(self, table: Callable[[Sequence[FloatArray], Sequence[FloatArray]], FloatArray]) -> None:
        self._table = table
        self._values: dict[tuple[bytes, bytes], float] = {}

    def __call__(self, first: Sequence[FloatArray], second: Sequence[FloatArray]) -> FloatArray:
        """Return the distances (M, N); the distance of a pair does not depend on its order."""
        first_keys, second_keys = ([sha256(one.tobytes()).digest() for one in clouds] for clouds in (first, second))
        for row, key in enumerate(first_keys):
            missing = [k for k, other in enumerate(second_keys) if (key, other) not in self._values]
            if not missing:
                continue
            found = self._table([first[row]], [second[k] for k in missing])[0]
            for k, value in zip(missing, found, strict=True):
                self._values[key, second_keys[k]] = self._values[second_keys[k], key] = float(value)
        return np.array([[self._values[a, b] for b in second_keys] for a in first_keys])


class PointSetScores(Metric):
    """MMD, COV and 1-NNA by Chamfer and earth mover's distance, and JSD, of generated against described clouds.

    The generated clouds are compared with the real clouds that their captions describe: equally many of both, so that
    of several clouds for one prompt only one counts. MMD is multiplied by 1000. Chamfer is the sum of both mean squared
    distances; the earth mover's distance is exact, on 512 points. JSD halves the coordinates, which fill [-1, 1], so
    that its grid holds them.
    """

    min_samples = 2

    class Config(PointMetricConfig):
        """Distances."""

        distances: tuple[Literal["cd", "emd"], ...] = Field(("cd",), min_length=1, description="cd and emd")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor
        tables = {"cd": chamfer_table, "emd": emd_table}
        self._tables = {name: PairCache(tables[name]) for name in config.distances}

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute the scores of the set."""
        rows = _row_per_target(inputs)
        generated, real = _clouds(inputs.generated[list(rows.values())]), _clouds(inputs.real[list(rows)])
        scores: dict[str, Tensor | float] = {}
        for name, table in self._tables.items():
            cross = table(generated, real)
            accuracy = nearest_neighbor_accuracy(table(generated, generated), cross, table(real, real))
            title = name.upper()
            scores |= {
                f"MMD-{title} x1e3": 1e3 * mmd(cross),
                f"COV-{title}": coverage(cross),
                f"1-NNA-{title}": accuracy,
            }
        scores["JSD"] = jensen_shannon([one / 2 for one in generated], [one / 2 for one in real])
        return scores

    def notes(self, inputs: EvalInputs) -> list[str]:
        """Say how many clouds the scores are of, and on how many points EMD is computed."""
        notes, count = [], len(_row_per_target(inputs))
        if count < len(inputs.generated):
            notes.append(f"point sets: {count} of {len(inputs.generated)} clouds, one of each prompt")
        if count < 200:
            notes.append(f"point sets: {count} clouds; COV and 1-NNA of fewer than 200 are uncertain")
        if "emd" in self.config.distances:
            notes.append(f"EMD: exact, on {EMD_POINTS} points of each cloud")
        return notes


class PointDensity(Metric):
    """Density of each cloud: mean and variation of nearest distances, and flatness.

    Points drawn by area have a variation of 0.523; see `distances.density_scores`.
    """

    Config = PointMetricConfig

    def __init__(self, config: PointMetricConfig, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `nearest`, `variation` and `flatness` of every generated cloud, and their ratios to the real ones."""
        ours = [density_scores(cloud) for cloud in _clouds(inputs.generated)]
        real = [density_scores(cloud) for cloud in _clouds(inputs.real[inputs.target_index])]
        scores = {name: torch.tensor([one[name] for one in ours]) for name in ours[0]}
        return {**scores, "nearest over real": scores["nearest"] / torch.tensor([one["nearest"] for one in real])}


class PointAttributes(Metric):
    """Share of the attributes of a shape that are read back from the generated cloud by geometry.

    Items need the fields `family` and `attributes` of the parametric families; others have no score.
    """

    Config = PointMetricConfig

    def __init__(self, config: PointMetricConfig, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `attributes` of every item, and `attributes of real clouds` as the bound."""
        return {
            "attributes": self._scores(inputs, inputs.generated),
            "attributes of real clouds": self._scores(inputs, inputs.real[inputs.target_index]),
        }

    def _scores(self, inputs: EvalInputs, rows: Tensor) -> Tensor:
        values = []
        for item, cloud in zip(inputs.items, _clouds(rows), strict=True):
            family, attributes = item.fields.get("family"), item.fields.get("attributes")
            if not isinstance(family, str) or not isinstance(attributes, Mapping) or not attributes:
                values.append(float("nan"))
                continue
            found = measure(family, cloud)
            values.append(float(np.mean([found[name] == value for name, value in attributes.items()])))
        return torch.tensor(values)


class PointClass(Metric):
    """Whether the real cloud nearest to a generated one, by Chamfer distance, has its class (`label`)."""

    Config = PointMetricConfig

    def __init__(self, config: PointMetricConfig, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor
        self._table = PairCache(chamfer_table)

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `class` of every item: 1 right, 0 wrong; the bank is the described clouds of all items."""
        targets = sorted(set(inputs.target_index.tolist()))
        labels = {item.target_index: item.fields.get("label") for item in inputs.items}
        nearest = self._table(_clouds(inputs.generated), _clouds(inputs.real[targets])).argmin(axis=1)
        values = [
            float("nan") if item.fields.get("label") is None else float(labels[targets[k]] == item.fields["label"])
            for item, k in zip(inputs.items, nearest.tolist(), strict=True)
        ]
        return {"class": torch.tensor(values)}


def _row_per_target(inputs: EvalInputs) -> dict[int, int]:
    """Return one generated row for each described real row; of several the one whose bytes sort first."""
    rows: dict[int, int] = {}
    for row, target in enumerate(inputs.target_index.tolist()):
        rows[target] = min(rows.get(target, row), row, key=lambda one: inputs.generated[one].numpy().tobytes())
    return dict(sorted(rows.items()))


def _clouds(rows: Tensor) -> list[FloatArray]:
    return [row.reshape(-1, 3).double().numpy() for row in rows]
