"""Measures of each step: throughput, memory and time left, and steps that are not as usual with their examples."""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lumina_core.io import atomic_file
from lumina_core.models.dit import DiTBackbone
from lumina_core.recipe import TrainingConfig
from lumina_core.types import Batch

BACKWARD_FACTOR = 3
"""Operations of a training step over those of its forward pass: the backward pass has two products for each."""
PEAK_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0,
    "A10": 125.0, "RTX 4090": 165.0, "RTX 3090": 71.0, "V100": 125.0, "T4": 65.0,
}  # fmt: skip
"""Dense bfloat16 (or float16) peak of GPUs in 10^12 operations per second, by a part of their names; data sheets."""
RECENT_STEPS = 20
"""Steps whose median duration predicts the time left."""
ANOMALIES_FILE = "anomalies.jsonl"
"""File of a training with a line per step that is not as usual."""
WINDOW, MIN_STEPS = 50, 10
"""Steps whose gradient norms give the median, and the fewest of them."""


@dataclass
class StepUsage:
    """What the micro-batches of a step processed.

    Attributes:
        tokens: tokens, with padding.
        flops: floating-point operations of the forward passes of the backbone.
    """

    tokens: int = 0
    flops: float = 0.0

    def add(self, other: StepUsage) -> None:
        """Add what another micro-batch processed."""
        self.tokens += other.tokens
        self.flops += other.flops


class UsageCounter:
    """Counter of the tokens of batches, and of the operations of a backbone's forward pass over them.

    Args:
        backbone: the network; None: no operations.
    """

    def __init__(self, backbone: Any) -> None:
        # a function, so that a module that has the counter does not have the backbone twice
        @lru_cache(maxsize=256)
        def count_flops(*sizes: int) -> float:
            return 0.0 if backbone is None else forward_flops(backbone, *sizes)

        self._count_flops = count_flops

    def count(self, batch: Batch) -> StepUsage:
        """Count one batch."""
        items, length = batch.tokens.values.shape[:2]
        condition = batch.condition
        context_length = 0 if condition.context is None else condition.context.shape[1]
        total_length = length + (0 if condition.reference is None else condition.reference.values.shape[1])
        return StepUsage(items * length, self._count_flops(items, total_length, context_length))


def forward_flops(backbone: nn.Module, items: int, length: int, context_length: int = 0) -> float:
    """Count the operations of a forward pass: those of matrix products, 2 for a multiplication and an addition.

    As in benchmarks/backbone.py: embeddings, the modulation of each block, projections, both products of attention,
    feed-forward. Norms, rotary embedding, softmax and activations count nothing. Of a backbone that is no
    `DiTBackbone`, 2 operations per weight and token.

    Args:
        backbone: the network.
        items: B, number of items.
        length: N, tokens of an item, reference tokens included.
        context_length: M, entries of its context.
    """
    if not isinstance(backbone, DiTBackbone):
        return 2.0 * items * length * sum(p.numel() for p in backbone.parameters())
    total = 0
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            total += 2 * _rows(name, length, context_length) * module.in_features * module.out_features
    width = backbone.config.hidden_size
    total += backbone.num_layers * 4 * length * (length + context_length) * width
    return float(items * total)


def _rows(name: str, length: int, context_length: int) -> int:
    """Return how many rows a linear layer of the backbone multiplies per item."""
    if "modulation" in name or name.startswith(("time_embed", "pooled_embed")):
        return 1
    return context_length if "context_kv" in name else length


def peak_flops(device: torch.device, dtype: torch.dtype, setting: float | None) -> float | None:
    """Return the peak of a device in operations per second; None if it is unknown.

    Args:
        device: of the training.
        dtype: of its matrix products; float32 counts half the peak (TF32).
        setting: `training.peak_tflops`, in 10^12 operations per second; None: that of PEAK_TFLOPS.
    """
    if setting is not None:
        return setting * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return None if peak is None else peak * 1e12 / (2 if dtype == torch.float32 else 1)


def memory_bytes(device: torch.device) -> int:
    """Return the most memory in bytes that the process has used: of a GPU, or on a CPU of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class TimeLeft:
    """Prediction of the time until the last step, from the median duration of recent ones."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    def update(self, step_seconds: float, steps_left: int) -> float:
        """Add the duration of a step, data included; returns the seconds that remain."""
        self._seconds.append(step_seconds)
        return statistics.median(self._seconds) * steps_left


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
