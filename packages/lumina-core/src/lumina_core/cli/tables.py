"""Figures as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MANY = 24
"""Groups of one key that are shown; more are in the JSON."""


def print_scores(told: Mapping[str, Any], console: Console | None = None) -> None:
    """One table of all figures, then one a metric for each key that cases are grouped by."""
    out = console or Console()
    way = ", ".join(f"{key} {value}" for key, value in told["settings"].items())
    out.print(f"{told['made']} made: {way}", highlight=False, soft_wrap=True)
    table = Table("figure", "value", "error", "95 %", "of")
    for score in told["scores"].values():
        for figure in _figures(score).values():
            error, count = _number(figure.get("error")), str(figure["count"])
            table.add_row(figure["name"], _number(figure["value"]), error, _bounds(figure), count)
    out.print(table)
    for metric, score in told["scores"].items():
        for key in dict.fromkeys(key for figure in _figures(score).values() for key in figure.get("by", {})):
            _print_groups(metric, key, score, out)


def _print_groups(metric: str, key: str, score: Mapping[str, Any], out: Console) -> None:
    having = {name: figure for name, figure in _figures(score).items() if figure.get("by", {}).get(key)}
    names = list(dict.fromkeys(group for figure in having.values() for group in figure["by"][key]))
    if len(names) < 2:
        return
    out.print(f"{metric} ({score['features']}), by {key}", highlight=False, soft_wrap=True)
    table = Table(key, *having, "of")
    for group in names[:MANY]:
        found = [figure["by"][key].get(group) for figure in having.values()]
        count = max(one["count"] for one in found if one)
        table.add_row(group, *(_number(one["value"]) if one else "" for one in found), str(count))
    table.add_section()
    table.add_row("mean", *(_number(figure["mean_of"][key]) for figure in having.values()), "")
    out.print(table)


def _figures(score: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: figure for name, figure in score.items() if isinstance(figure, Mapping)}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _bounds(figure: Mapping[str, Any]) -> str:
    return "" if figure.get("low") is None else f"{_number(figure['low'])} to {_number(figure['high'])}"
