"""Scores with confidence intervals and groups, and the environment that they were measured in."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core import __version__
from lumina_core.metrics.confidence import ConfidenceInterval, bootstrap_ci, jackknife_ci, jackknife_splits
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import EvalInputs, Metric

GroupLabels = Sequence[Mapping[str, str]]
"""Groups of each real example, by key."""

CORE_LIBRARIES = ("numpy", "torch")


@dataclass(frozen=True)
class MetricValue:
    """Score of `count` items.

    Attributes:
        value: the score.
        count: number of items.
        interval: 95 % confidence interval; None if it cannot be estimated.
        groups: scores of the groups of items, by key and name of the group.
    """

    value: float
    count: int
    interval: ConfidenceInterval | None = None
    groups: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)

    def group_means(self) -> dict[str, float]:
        """Return for each key the unweighted mean over its groups (every language counts alike, say)."""
        return {
            key: sum(group.value for group in values.values()) / len(values)
            for key, values in self.groups.items()
            if values
        }

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON takes it, rounded to seven digits."""
        result: dict[str, Any] = {"value": _round(self.value), "count": self.count}
        if self.interval is not None:
            interval = self.interval
            result |= {"error": _round(interval.error), "low": _round(interval.low), "high": _round(interval.high)}
        if self.groups:
            result["groups"] = {
                key: {name: value.to_json() for name, value in values.items()} for key, values in self.groups.items()
            }
            result["group_means"] = {key: _round(mean) for key, mean in self.group_means().items()}
        return result


def aggregate(metric: Metric, inputs: EvalInputs, group_labels: GroupLabels) -> dict[str, MetricValue]:
    """Compute the scores of a metric for all items and for every group.

    A score per item has a bootstrap interval; items with one target are one cluster. A score of the set has a jackknife
    interval, and a group is compared with the real examples of that group.

    Args:
        metric: the metric.
        inputs: features of generated and real examples.
        group_labels: groups of each real example.

    Returns:
        Scores by name; those that apply to no item are missing.
    """
    values = metric.compute(inputs)
    set_values = {name: float(value) for name, value in values.items() if not isinstance(value, Tensor)}
    results = {name: _aggregate_items(value, inputs) for name, value in values.items() if isinstance(value, Tensor)}
    if set_values:
        results |= _aggregate_set(metric, inputs, set_values, group_labels)
    return {name: results[name] for name in values if results[name].count}


def _aggregate_items(values: Tensor, inputs: EvalInputs) -> MetricValue:
    groups = {
        key: {name: _mean_value(values, inputs, indices) for name, indices in members.items()}
        for key, members in _group_members(inputs).items()
    }
    overall = _mean_value(values, inputs, range(len(values)))
    groups = {key: {name: value for name, value in names.items() if value.count} for key, names in groups.items()}
    return MetricValue(overall.value, overall.count, overall.interval, groups)


def _mean_value(values: Tensor, inputs: EvalInputs, indices: Sequence[int]) -> MetricValue:
    rows = torch.tensor([index for index in indices if not values[index].isnan()], dtype=torch.int64)
    if not len(rows):
        return MetricValue(float("nan"), 0)
    clusters = inputs.target_index[rows]
    interval = bootstrap_ci(values[rows], clusters) if len(clusters.unique()) > 1 else None
    return MetricValue(float(values[rows].double().mean()), len(rows), interval)


def _aggregate_set(
    metric: Metric, inputs: EvalInputs, values: Mapping[str, float], group_labels: GroupLabels
) -> dict[str, MetricValue]:
    subsets = [indices for indices in jackknife_splits(inputs.target_index) if len(indices) >= metric.min_samples]
    leave_out = [metric.compute(inputs.subset(indices)) for indices in subsets] if len(subsets) > 1 else []
    groups: dict[str, dict[str, dict[str, MetricValue]]] = {}
    for key, members in _group_members(inputs).items():
        for name, indices in members.items():
            real_rows = [row for row in inputs.reference_index.tolist() if group_labels[row].get(key, name) == name]
            if min(len(indices), len(real_rows)) < metric.min_samples:
                continue
            scores = metric.compute(inputs.subset(indices, torch.tensor(real_rows, dtype=torch.int64)))
            for score in values:
                groups.setdefault(score, {}).setdefault(key, {})[name] = MetricValue(float(scores[score]), len(indices))
    return {
        score: MetricValue(
            value,
            len(inputs.items),
            jackknife_ci([float(scores[score]) for scores in leave_out], value) if leave_out else None,
            groups.get(score, {}),
        )
        for score, value in values.items()
    }


def _group_members(inputs: EvalInputs) -> dict[str, dict[str, list[int]]]:
    """Return the indices of the items by key and group."""
    members: dict[str, dict[str, list[int]]] = {}
    for index, item in enumerate(inputs.items):
        for key, name in item.groups.items():
            members.setdefault(key, {}).setdefault(name, []).append(index)
    return members


def _round(value: float) -> float | None:
    # seven digits are more than any score is certain of, and hide the rounding of other batch sizes
    return None if value != value else float(f"{value:.7g}")


def metric_report(metric: Metric, scores: Mapping[str, MetricValue]) -> dict[str, Any]:
    """Return the scores of a metric as JSON takes them, each with its full name, which includes the features."""
    report: dict[str, Any] = {"feature_extractor": metric.feature_extractor.name}
    for name, value in scores.items():
        title = ", ".join(word for word in (metric.name, name, metric.feature_extractor.name) if word)
        report[name] = {"name": title, **value.to_json()}
    return report


def environment(registry: Registry, device: torch.device, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return the versions of all libraries that take part, and the hardware."""
    extractor_libraries = [name for metric in metrics.values() for name in metric.feature_extractor.libraries]
    plugins = {source.distribution: source.version for source in registry.sources.values()}
    libraries = {name: version(name) for name in (*CORE_LIBRARIES, *extractor_libraries)}
    return {
        "versions": {"python": platform.python_version(), "lumina-core": __version__, **libraries, **plugins},
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
