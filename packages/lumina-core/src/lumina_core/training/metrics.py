"""What a run writes down as it goes: a plain CSV always, TensorBoard where it is installed, and a progress bar."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class MetricLogger:
    """metrics.csv, tensorboard/ and the bar of one run. Rows after a resumed step are cut off: no step stands twice."""

    def __init__(self, out: Path, start_step: int, steps: int, quiet: bool) -> None:
        self._path, self._tensorboard = out / "metrics.csv", _make_tensorboard_writer(out / "tensorboard", start_step)
        self._fields = self._truncate_file(start_step)
        columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")]
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=quiet)
        self._task = self._bar.add_task("", total=steps, completed=start_step)

    def __enter__(self) -> MetricLogger:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def log(self, step: int, values: dict[str, float]) -> None:
        """One row after `step` steps."""
        row = {"step": step, **values}
        is_new = self._fields is None
        self._fields = self._fields or list(row)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._fields, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})
        if self._tensorboard is not None:
            for key, value in values.items():
                self._tensorboard.add_scalar(key, value, step)
        self._bar.update(self._task, completed=step, description=f"loss {values['loss']:.4f}")

    def log_samples(self, step: int, path: Path) -> None:
        """Say that a grid of samples was written."""
        self._bar.console.print(f"step {step}: samples in {path}", highlight=False)

    def _truncate_file(self, step: int) -> list[str] | None:
        if not self._path.is_file():
            return None
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:
            return None
        kept_rows = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([rows[0], *kept_rows])
        return rows[0]


def _make_tensorboard_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra lumina-core[tensorboard] is not installed; the CSV has the same numbers
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
