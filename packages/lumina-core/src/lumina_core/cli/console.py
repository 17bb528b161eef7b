"""Progress bars, and tables of scores on the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@contextmanager
def progress_bar(
    title: str, total: int, quiet: bool = False, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, and remove it at the end. Yields a function that advances it by a number.

    Args:
        title: text before the bar.
        total: number at which the bar is full.
        quiet: show no bar; there is none either if stderr is not a terminal.
        in_bytes: whether the numbers are bytes.
    """
    with _progress_bars(quiet, in_bytes) as bars:
        if bars is None:
            yield lambda _: None
            return
        task = bars.add_task(title, total=total)
        yield lambda more: bars.advance(task, more)


@contextmanager
def multi_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show one progress bar per task. Yields a function of a task's title, its current number and its total."""
    rows: dict[str, TaskID] = {}
    with _progress_bars() as bars:

        def update(title: str, done: int, total: int) -> None:
            if bars is not None:
                rows[title] = rows[title] if title in rows else bars.add_task(title, total=total)
                bars.update(rows[title], completed=done)

        yield update


@contextmanager
def _progress_bars(quiet: bool = False, in_bytes: bool = False) -> Iterator[Progress | None]:
    if quiet or not sys.stderr.isatty():
        # no bar rather than a disabled one: old versions of rich print an empty line for it
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*(columns if in_bytes else ()), transient=True, console=Console(stderr=True)) as bars:
        yield bars


def echo_json(content: Any) -> None:
    """Print one JSON object on one line of stdout; escaped where its encoding lacks letters, which is the same JSON."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "").replace("_", "")
    text = json.dumps(content, ensure_ascii=encoding not in ("utf8", "utf8sig", "utf16", "utf32"))
    click.echo(re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text))


MAX_GROUPS = 24
"""Largest number of groups per table; the JSON has all."""


def print_scores(scores: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table of all scores, then one table per metric and key that groups the items."""
    from rich.console import Console
    from rich.table import Table

    out = console or Console()
    settings = ", ".join(f"{key} {value}" for key, value in scores["settings"].items())
    out.print(f"{scores['num_generated']} generated: {settings}", highlight=False, soft_wrap=True)
    table = Table("metric", "value", "error", "95 %", "count")
    for score in scores["scores"].values():
        for metric_value in _metric_values(score).values():
            error, count = _format_number(metric_value.get("error")), str(metric_value["count"])
            table.add_row(
                metric_value["name"], _format_number(metric_value["value"]), error, _format_bounds(metric_value), count
            )
    out.print(table)
    for metric, score in scores["scores"].items():
        for key in dict.fromkeys(
            key for metric_value in _metric_values(score).values() for key in metric_value.get("groups", {})
        ):
            _print_groups(metric, key, score, out)


def _print_groups(metric: str, key: str, score: Mapping[str, Any], out: Console) -> None:
    from rich.table import Table

    values_by_name = {
        name: metric_value
        for name, metric_value in _metric_values(score).items()
        if metric_value.get("groups", {}).get(key)
    }
    names = list(
        dict.fromkeys(group for metric_value in values_by_name.values() for group in metric_value["groups"][key])
    )
    if len(names) < 2:
        return
    out.print(f"{metric} ({score['feature_extractor']}), by {key}", highlight=False, soft_wrap=True)
    table = Table(key, *values_by_name, "count")
    for group in names[:MAX_GROUPS]:
        group_values = [metric_value["groups"][key].get(group) for metric_value in values_by_name.values()]
        count = max(group_value["count"] for group_value in group_values if group_value)
        table.add_row(
            group,
            *(_format_number(group_value["value"]) if group_value else "" for group_value in group_values),
            str(count),
        )
    table.add_section()
    table.add_row(
        "mean", *(_format_number(metric_value["group_means"][key]) for metric_value in values_by_name.values()), ""
    )
    out.print(table)


def _metric_values(score: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: metric_value for name, metric_value in score.items() if isinstance(metric_value, Mapping)}


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _format_bounds(metric_value: Mapping[str, Any]) -> str:
    return (
        ""
        if metric_value.get("low") is None
        else f"{_format_number(metric_value['low'])} to {_format_number(metric_value['high'])}"
    )
