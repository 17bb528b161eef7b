"""Callbacks of a training: metrics, progress bar, checkpoints, samples."""

from __future__ import annotations

import csv
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lumina_core.device import autocast
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.io import atomic_file
from lumina_core.protocols import GenerationTask
from lumina_core.request import Request
from lumina_core.training import distributed
from lumina_core.training.optim import swap_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_core.model import Model
    from lumina_core.plugins.registry import Registry
    from lumina_core.training.trainer import Trainer

LINE_SECONDS = 30.0
"""Time between two lines of progress in a file."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimizer step, averaged over all processes.

    Attributes:
        step: number of steps so far, this one included.
        loss: mean loss of the examples.
        grad_norm: norm of the gradient before clipping.
        lr: learning rate of AdamW, overrides aside.
        step_seconds: duration of the step in this process, without reading the batch.
        samples_per_second, tokens_per_second: examples and their tokens, with padding, of all processes per second of
            `step_seconds`.
        terms: further terms of the loss, by name.
        mfu: operations of the backbone (see `throughput.forward_flops`, three times) per second, over the peak of all
            devices; None if the peak is unknown (`training.peak_tflops`).
        memory_bytes: the most memory that this process has used, on a GPU that of torch.
        data_seconds: time that this process waited for the batch.
        seconds_left: prediction of the time until the last step.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    step_seconds: float
    samples_per_second: float
    terms: dict[str, float]
    tokens_per_second: float = 0.0
    mfu: float | None = None
    memory_bytes: int = 0
    data_seconds: float = 0.0
    seconds_left: float = 0.0

    def as_row(self) -> dict[str, float]:
        """Return the columns of metrics.csv; terms stand behind the others."""
        names = (
            "step", "loss", "grad_norm", "step_seconds", "lr", "samples_per_second", "tokens_per_second", "mfu",
            "memory_bytes", "data_seconds", "seconds_left",
        )  # fmt: skip
        return {**{name: vars(self)[name] for name in names if vars(self)[name] is not None}, **self.terms}


class TrainCallback:
    """Base class of callbacks. Override any of its methods; each returns None.

    Callbacks are called in the first process only, in their order; the other processes wait. To end a training after
    the current step, with a checkpoint and a model, call `trainer.stop()`.

    Attributes:
        all_processes: whether `on_train_start`, `on_step_end` and `on_train_end` are called in every process, as a
            callback needs that runs the model or saves in a sharded training.
    """

    all_processes: bool = False

    def on_train_start(self, trainer: Trainer) -> None:
        """Called by `Trainer.train` before the first step."""

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Called after each step of `Trainer.train`."""

    def on_checkpoint(self, trainer: Trainer, folder: Path) -> None:
        """Called after a checkpoint was written."""

    def on_samples(self, trainer: Trainer, path: Path, captions: Sequence[str]) -> None:
        """Called after samples were written: the overview file, and what each sample was requested by."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called when `Trainer.train` ends, also by an error."""


class MetricLogger(TrainCallback):
    """Writer of metrics.csv and, if tensorboard is installed, of tensorboard/.

    A resumed training continues the file: rows after its checkpoint are deleted, so that no step occurs twice. A term
    of the loss that occurs later adds a column.
    """

    def __init__(self, out: Path) -> None:
        self._path, self._tensorboard_dir, self._tensorboard = out / "metrics.csv", out / "tensorboard", None
        self._columns: list[str] = []

    def on_train_start(self, trainer: Trainer) -> None:
        """Open the files at the trainer's step."""
        self.open(trainer.step)

    def open(self, step: int) -> None:
        """Open the files and delete rows after a step."""
        self._tensorboard = _make_tensorboard_writer(self._tensorboard_dir, step)
        rows = self._read()
        self._columns = rows[0] if rows else []
        self._write(_rows_up_to(step, rows[1:], len(self._columns)))

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Write the metrics of a step."""
        self.log(metrics)

    def log(self, metrics: StepMetrics) -> None:
        """Append one row."""
        row = metrics.as_row()
        new_columns = [name for name in row if name not in self._columns]
        if new_columns:
            rows = self._read()[1:]
            self._columns += new_columns
            self._write(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            values = {key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()}
            csv.DictWriter(file, self._columns).writerow(values)
        if self._tensorboard is not None:
            for key, value in row.items():
                if key != "step":
                    self._tensorboard.add_scalar(key, value, metrics.step)

    def on_samples(self, trainer: Trainer, path: Path, captions: Sequence[str]) -> None:
        """Add an overview of samples, if it is a PNG image, and their captions to TensorBoard."""
        if self._tensorboard is None:
            return
        lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
        self._tensorboard.add_text("samples", lines, trainer.step)
        if path.suffix == ".png":
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._tensorboard.add_image("samples", pixels, trainer.step, dataformats="HWC")

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the files."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _read(self) -> list[list[str]]:
        if not self._path.is_file():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        if not self._columns:
            return
        with atomic_file(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            padded = [[*row, *[""] * (len(self._columns) - len(row))] for row in rows]
            csv.writer(file).writerows([self._columns, *padded])


def _rows_up_to(step: int, rows: Sequence[Sequence[str]], num_columns: int) -> list[Sequence[str]]:
    """Return the complete rows of the steps up to one; a full disk may have cut off the last row."""
    kept: list[Sequence[str]] = []
    last = 0
    for row in rows:
        if len(row) == num_columns and row[0].isdigit() and last < int(row[0]) <= step:
            last = int(row[0])
            kept.append(row)
    return kept


def _make_tensorboard_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # without the extra lumina-core[tensorboard]; metrics.csv has the same values
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class ProgressBar(TrainCallback):
    """Progress bar on the terminal; a line now and then if the output goes elsewhere, to a file or a pipe.

    A training goes on if its output is no longer read.

    Args:
        line_seconds: time between two lines.
    """

    def __init__(self, line_seconds: float = LINE_SECONDS) -> None:
        self._line_seconds, self._next_line = line_seconds, 0.0
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")]
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())

    def on_train_start(self, trainer: Trainer) -> None:
        """Show the bar, after a note if threads will wait for one another."""
        note = thread_note() if trainer.process.device.type == "cpu" else None
        if note:
            print_line(f"Note: {note}")
        if self._bar is not None:
            self._task = self._bar.add_task("", total=trainer.recipe.training.steps, completed=trainer.step)
            self._bar.start()

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Advance the bar, or print a line if one is due."""
        if self._bar is not None:
            self._bar.update(self._task, completed=metrics.step, description=f"loss {metrics.loss:.4f}")
            return
        total = trainer.recipe.training.steps
        if time.monotonic() >= self._next_line or metrics.step == total:
            self._next_line = time.monotonic() + self._line_seconds
            left = timedelta(seconds=round(metrics.step_seconds * (total - metrics.step)))
            print_line(
                f"step {metrics.step}/{total}  loss {metrics.loss:.4f}  lr {metrics.lr:.3g}  "
                f"{metrics.step_seconds:.3g} s a step  {left} left"
            )

    def on_train_end(self, trainer: Trainer) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()


def thread_note() -> str | None:
    """Return a warning if the threads of all processes here, and the load of others, are more than the cores.

    The threads of a matrix product wait for the slowest one: on a busy machine, steps take ten times as long.
    """
    threads, processes = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads == 1 or round(load) + processes * threads <= cores:
        return None
    own = f"{threads} threads" if processes == 1 else f"{processes} processes of {threads} threads"
    return (
        f"{own} on {cores} cores with a load of {load:.1f}: threads that wait for one another make steps slow. If a "
        "step takes seconds, set OMP_NUM_THREADS=1"
    )


def print_line(text: str) -> None:
    """Print a line to stdout; if its reader has ended, print no more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class CheckpointCallback(TrainCallback):
    """Saves a checkpoint every `training.checkpoint_interval` steps, and after the last step."""

    all_processes = True

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Save if a checkpoint is due."""
        training = trainer.recipe.training
        if metrics.step % training.checkpoint_interval == 0 or metrics.step == training.steps:
            trainer.save()


def check_samples(model: Model, registry: Registry, encode: bool = True) -> list[Request]:
    """Return the requests of `training.sample_requests`, after a check of all that sampling will need of them.

    The sampling defaults of the recipe are checked without requests too, since the model is made for sampling.

    Args:
        encode: whether the conditions of the requests are encoded, which needs the weights.

    Raises:
        ConfigError, PluginError: a request has an unknown field, a value out of range (also a class that the model does
            not have), a size that the model does not support, or an unknown component.
    """
    from lumina_core.model import empty_tokens
    from lumina_core.sampling.resolve import resolve_sampling

    training, requests = model.recipe.training, list[Request]()
    for index, fields in enumerate(training.sample_requests):
        name = f"training.sample_requests[{index}]"
        request = model.task.Request.read(dict(fields), name)
        if not isinstance(request, Request):
            raise ConfigError(
                f"training.sample_requests: got requests for task {model.recipe.task.type}, expected none. Only tasks "
                "that generate have samples."
            )
        task = model.generation_task
        try:
            resolve_sampling(model, registry, request)
            empty_tokens(model, task.size(request), 1)
            for derive in (task.init_data, task.variation, task.regions):
                derive(request)
            conditions = task.conditions(request), task.negative_conditions(request)
            with torch.no_grad():
                for values in conditions if encode else ():
                    model.encode_condition(values, 1)
        except LuminaError as error:
            raise type(error)(f"{name}: {error}") from error
        requests.append(request)
    can_sample = isinstance(model.task, GenerationTask) and model.backbone is not None
    if can_sample and not requests and model.recipe.sampling.rope_scaling is None:
        resolve_sampling(model, registry, Request())
    return requests


def _caption(request: Request) -> str:
    """Return what a sample is requested by: its prompt, or the fields that are set."""
    field = request.argument_field()
    values = request.model_dump(mode="json", exclude_defaults=True)
    return str(values.get(field)) if field in values else ", ".join(f"{k}={v}" for k, v in values.items())


class SampleCallback(TrainCallback):
    """Generates `training.sample_requests` with the averaged weights every `training.sample_interval` steps.

    The samples are written to samples/. The weights in training are afterwards the same, bit for bit. If sampling
    fails, the training continues with a warning. Several processes share the requests; in a sharded training, whose
    blocks are gathered for all processes at once, each process computes all of them.

    Args:
        trainer: its recipe's requests are checked here, before the first step, see `check_samples`.
        encode: whether the weights are loaded, so that the prompts can be encoded.
    """

    def __init__(self, trainer: Trainer, encode: bool = True) -> None:
        self.requests = check_samples(trainer.model, trainer.registry, encode)
        self.all_processes = trainer.process.world_size > 1

    def on_train_start(self, trainer: Trainer) -> None:
        """Generate the samples of the checkpoint that is resumed, if the run died before they were written."""
        missing = trainer.step > 0 and not any((trainer.out / "samples").glob(f"{self._name(trainer)}.*"))
        # a sharded model is ready after its first training step
        if distributed.broadcast_object(missing, trainer.process) and not trainer.is_sharded:
            self._sample_if_due(trainer)

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Generate if samples are due."""
        self._sample_if_due(trainer)

    def _sample_if_due(self, trainer: Trainer) -> None:
        interval = trainer.recipe.training.sample_interval
        if interval and trainer.step % interval == 0 and self.requests:
            try:
                path = self.sample(trainer)
                if path is not None:
                    trainer.report_samples(path, [_caption(request) for request in self.requests])
            except LuminaError as error:
                if trainer.process.is_main:
                    warnings.warn(f"step {trainer.step}: no samples ({error})", stacklevel=3)

    @staticmethod
    def _name(trainer: Trainer) -> str:
        return f"step-{trainer.step:08d}"

    def sample(self, trainer: Trainer) -> Path | None:
        """Generate the requests with the averaged weights; call in all processes.

        Returns:
            The path of the overview file, in the first process; elsewhere None.

        Raises:
            LuminaError: a request failed.
        """
        data = self._share_requests(trainer)
        if not trainer.process.is_main:
            return None
        return trainer.model.generation_task.save_grid(data, trainer.out / "samples", self._name(trainer))

    def _share_requests(self, trainer: Trainer) -> list[torch.Tensor]:
        """Return the data of all requests in the first process; other processes compute a share of them."""
        process, requests = trainer.process, self.requests
        if process.world_size == 1 or trainer.is_sharded:
            return self._generate(trainer, requests)
        bounds = [len(requests) * rank // process.world_size for rank in range(process.world_size + 1)]
        own = requests[slice(*bounds[process.rank :][:2])]
        shares = distributed.gather_results(lambda: [item.cpu() for item in self._generate(trainer, own)], process)
        return [item for share in shares for item in share]

    def _generate(self, trainer: Trainer, requests: Sequence[Request]) -> list[torch.Tensor]:
        from lumina_core.sampling.pipeline import Pipeline

        if not requests:
            return []
        with averaged_weights(trainer):
            results = Pipeline(trainer.model, trainer.registry)(list(requests))
        return [result.data for result in results]


@contextmanager
def averaged_weights(trainer: Trainer) -> Iterator[None]:
    """Put the averaged weights into the model, in evaluation mode; restore weights and modes afterwards.

    All processes enter it together. Matrices of several dtypes are computed in that of the training.
    """
    model = trainer.model
    # frozen matrices of an adapter's base, and gathered ones, may be bfloat16 between float32 ones
    is_mixed = trainer.recipe.training.adapter is not None or trainer.is_sharded
    dtype = trainer.dtype if is_mixed else torch.float32
    modes = {name: module.training for name, module in model.named_modules()}
    swap_weights(model, trainer.ema.weights)
    model.eval()
    try:
        with torch.no_grad(), distributed.gathered(trainer.parallel_module), autocast(dtype, trainer.process.device):
            yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
        swap_weights(model, trainer.ema.weights)
