"""Figures of a metric, each with how sure it is: of all cases, and of every group of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumina_core.metrics.confidence import ConfidenceInterval, bootstrap_ci, jackknife_ci, jackknife_splits
from lumina_core.protocols import EvalInputs, Metric

GroupLabels = Sequence[Mapping[str, str]]
"""For each real example what it belongs to."""


@dataclass(frozen=True)
class MetricValue:
    """One figure of `count` cases, with the bounds that hold it with 95 % where they are known; by key and group."""

    value: float
    count: int
    interval: ConfidenceInterval | None = None
    groups: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)

    def group_means(self) -> dict[str, float]:
        """For each key the plain mean over its groups: every language counts alike, say."""
        return {
            key: sum(f.value for f in values.values()) / len(values) for key, values in self.groups.items() if values
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        result: dict[str, Any] = {"value": _round_value(self.value), "count": self.count}
        if self.interval is not None:
            result |= {name: _round_value(getattr(self.interval, name)) for name in ("error", "low", "high")}
        if self.groups:
            result["groups"] = {
                k: {name: value.to_json() for name, value in values.items()} for k, values in self.groups.items()
            }
            result["group_means"] = {key: _round_value(mean) for key, mean in self.group_means().items()}
        return result


def aggregate(metric: Metric, inputs: EvalInputs, group_labels: GroupLabels) -> dict[str, MetricValue]:
    """Every figure of a metric.

    Args:
        groups: of each real example, as the exam tells them.
    """
    values = metric.compute(inputs)
    per_item = [name for name, value in values.items() if isinstance(value, Tensor)]
    results = {name: _aggregate_items(values[name], inputs) for name in per_item}  # type: ignore[arg-type]
    set_values = {name: float(value) for name, value in values.items() if name not in results}
    if set_values:
        results |= _aggregate_sets(metric, inputs, set_values, group_labels)
    return {name: results[name] for name in values if name in results and results[name].count}


def _aggregate_items(values: Tensor, inputs: EvalInputs) -> MetricValue:
    valid = ~values.isnan()
    groups: dict[str, dict[str, MetricValue]] = {}
    for key, names in _group_members(inputs).items():
        rows_by_group = {
            name: torch.tensor([p for p in indices if valid[p]], dtype=torch.int64) for name, indices in names.items()
        }
        groups[key] = {
            name: _mean_value(values[rows], inputs.target_index[rows])
            for name, rows in rows_by_group.items()
            if len(rows)
        }
    rows = torch.nonzero(valid).flatten()
    if not len(rows):
        return MetricValue(float("nan"), 0)
    overall = _mean_value(values[rows], inputs.target_index[rows])
    return MetricValue(overall.value, overall.count, overall.interval, groups)


def _mean_value(values: Tensor, clusters: Tensor) -> MetricValue:
    interval = bootstrap_ci(values, clusters) if len(clusters.unique()) > 1 else None  # one witness cannot be unsure
    return MetricValue(float(values.double().mean()), len(values), interval)


def _aggregate_sets(
    metric: Metric, inputs: EvalInputs, values: Mapping[str, float], group_labels: GroupLabels
) -> dict[str, MetricValue]:
    subsets = [indices for indices in jackknife_splits(inputs.target_index) if len(indices) >= metric.min_samples]
    subset_values = [metric.compute(inputs.subset(indices)) for indices in subsets] if len(subsets) > 1 else []
    grouped = {
        key: _aggregate_groups(metric, inputs, key, names, group_labels)
        for key, names in _group_members(inputs).items()
    }
    return {
        name: MetricValue(
            value,
            len(inputs.items),
            jackknife_ci([float(part[name]) for part in subset_values], value) if subset_values else None,
            {key: {n: f[name] for n, f in results.items()} for key, results in grouped.items() if results},
        )
        for name, value in values.items()
    }


def _aggregate_groups(
    metric: Metric, inputs: EvalInputs, key: str, names: Mapping[str, Sequence[int]], group_labels: GroupLabels
) -> dict[str, dict[str, MetricValue]]:
    """Of each group with enough cases; compared with the real ones of the group, where real ones have this key."""
    results: dict[str, dict[str, MetricValue]] = {}
    for name, indices in names.items():
        real_rows = [row for row in inputs.reference_index.tolist() if group_labels[row].get(key, name) == name]
        if min(len(indices), len(real_rows)) < metric.min_samples:
            continue
        values = metric.compute(inputs.subset(indices, torch.tensor(real_rows, dtype=torch.int64)))
        results[name] = {n: MetricValue(float(v), len(indices)) for n, v in values.items() if not isinstance(v, Tensor)}
    return results


def _group_members(inputs: EvalInputs) -> dict[str, dict[str, list[int]]]:
    """Key -> group -> places of its cases; a key that says the same of all says nothing, unless it is the only one."""
    members: dict[str, dict[str, list[int]]] = {}
    for index, item in enumerate(inputs.items):
        for key, name in item.groups.items():
            members.setdefault(key, {}).setdefault(name, []).append(index)
    return members


def _round_value(value: float) -> float | None:
    # seven digits say more than any figure knows, and hide the rounding of other batches
    return None if value != value else float(f"{value:.7g}")
