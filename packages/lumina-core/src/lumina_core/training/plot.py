"""Plot of the metrics of trainings: loss, gradient norm, learning rate and throughput, as one PNG image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumina_core.errors import CheckpointError
from lumina_core.io import atomic_file, read_plain_text

INSTALL_EXTRA = "lumina-core[plot]"
METRICS_FILE = "metrics.csv"
MAX_METRICS_BYTES = 2**30
PANELS = (
    ("loss", "loss", "log"),
    ("grad_norm", "gradient norm", "log"),
    ("lr", "learning rate", "linear"),
    ("samples_per_second", "samples per second", "linear"),
)
"""Columns of metrics.csv, their titles and the scales of their axes."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colors of the runs; people with color blindness can tell them apart (Okabe and Ito)."""


def read_metrics(run: Path) -> dict[str, list[float]]:
    """Read the columns of a run's metrics.csv; values that are missing or no number are NaN.

    Raises:
        CheckpointError: the folder has no metrics.csv, or one without a complete row.
    """
    path = run if run.is_file() else run / METRICS_FILE
    try:
        reader = csv.DictReader(io.StringIO(read_plain_text(path, MAX_METRICS_BYTES)))
        rows = [row for row in reader if (row.get("step") or "").isdigit()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"run: got {run}, expected a training with {METRICS_FILE} ({error}).") from error
    if not rows:
        raise CheckpointError(f"run: got {run}, whose {METRICS_FILE} has no row yet. Wait for the first step.")
    names = [name for name in rows[0] if name]
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Average each value with those before it in a window; values that are not finite do not count.

    The window is shorter at the beginning, so that no value is made up.
    """
    result = []
    for index in range(len(values)):
        finite = [value for value in values[max(0, index + 1 - window) : index + 1] if math.isfinite(value)]
        result.append(sum(finite) / len(finite) if finite else math.nan)
    return result


def plot_runs(runs: Sequence[Path], path: Path, window: int | None = None) -> None:
    """Plot the metrics of runs as a PNG image: single steps pale, their moving averages in full color.

    Args:
        runs: folders of trainings.
        path: PNG file to write.
        window: steps of the moving average; None: a fiftieth of the steps.

    Raises:
        CheckpointError: a folder has no metrics.
        PluginError: matplotlib is not installed.
    """
    columns = {run: read_metrics(run) for run in runs}
    from lumina_core.pretrained import require

    figure = require("matplotlib.figure", INSTALL_EXTRA, "a plot").Figure(figsize=(11, 6.4), dpi=100)
    for axes, (column, title, scale) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        for index, (run, metrics) in enumerate(columns.items()):
            if column in metrics:
                _plot_metric(axes, metrics["step"], metrics[column], window, COLORS[index % len(COLORS)], _label(run))
        values = [value for metrics in columns.values() for value in metrics.get(column, ())]
        if scale == "log" and values and min(values) > 0:
            axes.set_yscale("log")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8, which="both")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if len(columns) > 1:
        figure.axes[0].legend(fontsize=8, frameon=False)
    else:
        figure.suptitle(_label(runs[0]), x=0.01, ha="left", fontsize=12, parse_math=False)
    figure.tight_layout()
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _plot_metric(
    axes: Any, steps: list[float], values: list[float], window: int | None, color: str, label: str
) -> None:
    window = max(1, len(steps) // 50) if window is None else window
    if window > 1:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values, window), color=color, linewidth=1.6, label=label)


def _label(run: Path) -> str:
    return (run.parent if run.is_file() else run.resolve()).name


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
