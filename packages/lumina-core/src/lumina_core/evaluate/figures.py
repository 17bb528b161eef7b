"""Figures of a metric, each with how sure it is: of all cases, and of every group of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumina_core.judging import Judged, Metric
from lumina_core.measures.interval import Interval, of_blocks, of_mean, without

Groups = Sequence[Mapping[str, str]]
"""For each real example what it belongs to."""


@dataclass(frozen=True)
class Figure:
    """One figure of `count` cases, with the bounds that hold it with 95 % where they are known; by key and group."""

    value: float
    count: int
    interval: Interval | None = None
    by: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """For each key the plain mean over its groups: every language counts alike, say."""
        return {key: sum(f.value for f in found.values()) / len(found) for key, found in self.by.items() if found}

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        told: dict[str, Any] = {"value": _rounded(self.value), "count": self.count}
        if self.interval is not None:
            told |= {name: _rounded(getattr(self.interval, name)) for name in ("error", "low", "high")}
        if self.by:
            told["by"] = {k: {name: figure.plain() for name, figure in found.items()} for k, found in self.by.items()}
            told["mean_of"] = {key: _rounded(mean) for key, mean in self.means().items()}
        return told


def figures(metric: Metric, judged: Judged, groups: Groups) -> dict[str, Figure]:
    """Every figure of a metric.

    Args:
        groups: of each real example, as the exam tells them.
    """
    found = metric.figures(judged)
    single = [name for name, value in found.items() if isinstance(value, Tensor)]
    told = {name: _of_items(found[name], judged) for name in single}  # type: ignore[arg-type]
    whole = {name: float(value) for name, value in found.items() if name not in told}
    if whole:
        told |= _of_sets(metric, judged, whole, groups)
    return {name: told[name] for name in found if name in told and told[name].count}


def _of_items(values: Tensor, judged: Judged) -> Figure:
    applies = ~values.isnan()
    by: dict[str, dict[str, Figure]] = {}
    for key, names in _members(judged).items():
        parts = {
            name: torch.tensor([p for p in places if applies[p]], dtype=torch.int64) for name, places in names.items()
        }
        by[key] = {name: _mean(values[rows], judged.right[rows]) for name, rows in parts.items() if len(rows)}
    rows = torch.nonzero(applies).flatten()
    if not len(rows):
        return Figure(float("nan"), 0)
    whole = _mean(values[rows], judged.right[rows])
    return Figure(whole.value, whole.count, whole.interval, by)


def _mean(values: Tensor, clusters: Tensor) -> Figure:
    bounds = of_mean(values, clusters) if len(clusters.unique()) > 1 else None  # one witness cannot be unsure
    return Figure(float(values.double().mean()), len(values), bounds)


def _of_sets(metric: Metric, judged: Judged, values: Mapping[str, float], groups: Groups) -> dict[str, Figure]:
    places = [kept for kept in without(judged.right) if len(kept) >= metric.least]
    parts = [metric.figures(judged.only(kept)) for kept in places] if len(places) > 1 else []
    by = {key: _of_groups(metric, judged, key, names, groups) for key, names in _members(judged).items()}
    return {
        name: Figure(
            value,
            len(judged.cases),
            of_blocks([float(part[name]) for part in parts], value) if parts else None,
            {key: {n: f[name] for n, f in found.items()} for key, found in by.items() if found},
        )
        for name, value in values.items()
    }


def _of_groups(
    metric: Metric, judged: Judged, key: str, names: Mapping[str, Sequence[int]], groups: Groups
) -> dict[str, dict[str, Figure]]:
    """Of each group with enough cases; compared with the real ones of the group, where real ones have this key."""
    told: dict[str, dict[str, Figure]] = {}
    for name, places in names.items():
        real = [row for row in judged.population.tolist() if groups[row].get(key, name) == name]
        if min(len(places), len(real)) < metric.least:
            continue
        part = metric.figures(judged.only(places, torch.tensor(real, dtype=torch.int64)))
        told[name] = {n: Figure(float(v), len(places)) for n, v in part.items() if not isinstance(v, Tensor)}
    return told


def _members(judged: Judged) -> dict[str, dict[str, list[int]]]:
    """Key -> group -> places of its cases; a key that says the same of all says nothing, unless it is the only one."""
    found: dict[str, dict[str, list[int]]] = {}
    for place, case in enumerate(judged.cases):
        for key, name in case.groups.items():
            found.setdefault(key, {}).setdefault(name, []).append(place)
    return found


def _rounded(value: float) -> float | None:
    # seven digits say more than any figure knows, and hide the rounding of other batches
    return None if value != value else float(f"{value:.7g}")
