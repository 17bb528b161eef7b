"""Checks of what models are judged by: features and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_core.judging import Case, Features, Judged, Metric
from lumina_core.testing._contract import (
    Contract,
    drawn,
    other_chance,
    want,
    want_close,
    want_finite,
    want_same,
    want_shape,
)

PLACE = "lumina_core.judging.{}"


def check_features(features: Features, data: Tensor) -> None:
    """Try every line of the contract `Features`.

    Args:
        data: (B, channels, ...) in [-1, 1], at least two different items.

    Raises:
        ContractError: a line is broken.
    """
    contract, items = Contract(PLACE.format("Features"), features), list(data)
    with contract.line("name is said beside every figure, key changes whenever the numbers do: plain words"):
        named = [word for word in (features.name, features.key) if isinstance(word, str) and word]
        want(len(named) == 2, f"{features.name!r} and {features.key!r}")
    with contract.line("B items give (B, D) finite numbers on the CPU"):
        rows = features(items)
        want_shape(rows, (len(items), None), "the features")
        want_finite(rows, "the features")
        want(rows.device.type == "cpu", f"features on {rows.device}")
    with contract.line("the same items give the same features, without chance"), other_chance(5):
        want_same(features(items), rows, "the second time")
    with contract.line("each item alone decides its row, whatever its neighbours and their order"):
        for place, item in enumerate(items):
            want_close(features([item])[0], rows[place], f"item {place} alone")
        want_close(features(items[::-1]), rows.flip(0), "the rows of the items backwards")
    with contract.line("different items have different features"):
        want(not torch.equal(rows[0], rows[1]), "the same row for the first two items")


def check_metric(metric: Metric, data: Tensor, said: Sequence[Mapping[str, Any]] = ()) -> None:
    """Try every line of the contract `Metric`, and those of its features.

    Args:
        data: (B, channels, ...) in [-1, 1], at least two different items: the real examples it is judged by.
        said: what is said of each of them, by field, for a metric that compares with it.

    Raises:
        ContractError: a line is broken.
    """
    check_features(metric.features, data)
    contract = Contract(PLACE.format("Metric"), metric)
    with contract.line("name stands in a table, least is the fewest cases a figure can be told of"):
        want(isinstance(metric.name, str), f"name is {metric.name!r}")
        want(isinstance(metric.least, int) and metric.least > 0, f"least is {metric.least!r}")
    judged = _judged(metric.features(list(data)), metric.least, list(said) or [{}] * len(data))
    count = len(judged.cases)
    with contract.line("figures(judged) gives by name a float of the whole set, or a number a case (M,)"):
        figures = metric.figures(judged)
        want(isinstance(figures, Mapping) and figures, f"{type(figures).__name__} of {len(figures)} figures")
        for name, figure in figures.items():
            want(isinstance(figure, float | Tensor), f"'{name}' is {type(figure).__name__}")
            if isinstance(figure, Tensor):
                want_shape(figure, (count,), f"'{name}'")
    with contract.line("the same is judged alike, without chance"), other_chance(5):
        _want_alike(metric.figures(judged), figures)
    with contract.line("the order of the cases decides nothing"):
        back = list(range(count))[::-1]
        turned = metric.figures(judged.only(back))
        _want_alike({n: f.flip(0) if isinstance(f, Tensor) else f for n, f in turned.items()}, figures)


def _judged(real: Tensor, least: int, said: Sequence[Mapping[str, Any]]) -> Judged:
    """Each real example asked for as often as it takes, what was made near to it but for a little noise."""
    rows = torch.arange(max(least, 2 * len(real))) % len(real)
    spread = real.std(dim=0, keepdim=True).nan_to_num(1.0)
    made = real[rows] + 0.3 * spread * drawn(len(rows), real.shape[1])
    return Judged(made, real, [Case(said[int(row)], int(row)) for row in rows], torch.arange(len(real)))


def _want_alike(came: Mapping[str, Tensor | float], wanted: Mapping[str, Tensor | float]) -> None:
    want(set(came) == set(wanted), f"the figures {sorted(came)} instead of {sorted(wanted)}")
    for name, figure in wanted.items():
        one, other = torch.as_tensor(came[name]).double(), torch.as_tensor(figure).double()
        want(torch.equal(one.isnan(), other.isnan()), f"'{name}' is no number at other places")
        want_close(one.nan_to_num(), other.nan_to_num(), f"'{name}'", within=1e-3)
