"""Steps whose loss is not finite or whose gradient is far larger than usual: skipped or the end, and their examples."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lumina_core.io import atomic_file
from lumina_core.recipe import TrainingConfig

ANOMALIES_FILE = "anomalies.jsonl"
"""File of a training with a line per such step."""
WINDOW, MIN_STEPS = 50, 10
"""Steps whose gradient norms give the median, and the fewest of them."""


class AnomalyCheck:
    """Check of the loss and the gradient norm of each step.

    The median is that of the last steps that were not skipped. After a resume it is that of an uninterrupted training,
    read from metrics.csv.

    Args:
        training: settings `on_nonfinite`, `spike_factor` and `on_spike`.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._training = training
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def restore(self, metrics_path: Path, step: int) -> None:
        """Read the gradient norms of the steps up to one, if spikes are looked for."""
        if self._training.spike_factor is None or not metrics_path.is_file():
            return
        with metrics_path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                with suppress(ValueError, TypeError):  # a full disk may have cut off the last row
                    if int(row["step"]) <= step and not row.get("skipped") and math.isfinite(float(row["grad_norm"])):
                        self._norms.append(float(row["grad_norm"]))

    def reason(self, loss: float, grad_norm: float) -> str | None:
        """Return why a step is not to be taken; None: it is, and its norm counts for the next ones."""
        if not math.isfinite(loss + grad_norm):
            return "the loss or the gradient is not finite"
        if self._training.spike_factor is not None:
            median = self.median
            if median is not None and grad_norm > self._training.spike_factor * median:
                return f"the gradient norm {grad_norm:.4g} is above {self._training.spike_factor:g} times {median:.4g}"
            self._norms.append(float(f"{grad_norm:.8g}"))  # as metrics.csv has it
        return None

    @property
    def median(self) -> float | None:
        """Median of the last gradient norms; None: too few steps, or spikes are not looked for."""
        return statistics.median(self._norms) if len(self._norms) >= MIN_STEPS else None


def write_anomaly(out: Path, step: int, reason: str, action: str, loss: float, grad_norm: float,
                  indices: Sequence[int]) -> None:  # fmt: skip
    """Add a line to the file of a training; a line of the same step, from before a resume, is replaced.

    Args:
        out: folder of the training.
        step: number of the step (the first is 1).
        reason: why the step is not usual.
        action: skip or stop.
        loss, grad_norm: of the step; written as text if they are not finite.
        indices: examples of the step, by their indices in the data set.
    """
    entry: dict[str, Any] = {
        "step": step,
        "reason": reason,
        "action": action,
        "loss": loss if math.isfinite(loss) else str(loss),
        "grad_norm": grad_norm if math.isfinite(grad_norm) else str(grad_norm),
        "examples": list(indices),
    }
    path = out / ANOMALIES_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if _step_of(line) < step]
    with atomic_file(path) as partial:
        partial.write_text("\n".join([*kept, json.dumps(entry)]) + "\n", encoding="utf-8")


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
