"""Further callbacks of a training: experiment trackers, and profiles by torch's profiler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file
from lumina_core.pretrained import require
from lumina_core.training.callbacks import StepMetrics, TrainCallback

if TYPE_CHECKING:
    from lumina_core.training.trainer import Trainer

TRACKERS = ("wandb", "trackio")
"""Libraries of experiment trackers."""
PROFILE_DIR = "profile"
WARMUP_STEPS = 3
"""Steps before a profile: the first ones compile, allocate and fill caches."""


class TrackerCallback(TrainCallback):
    """Logs the metrics of every step to Weights & Biases or trackio, which have the same interface.

    Both write to the local disk without an account: trackio always, wandb with WANDB_MODE=offline.

    Args:
        library: wandb or trackio.
        project: name of the project.
        run: name of the run; None: that of the training's folder.

    Raises:
        ConfigError: another library.
        PluginError: the library is not installed.
    """

    def __init__(self, library: str, project: str = "lumina", run: str | None = None) -> None:
        if library not in TRACKERS:
            raise ConfigError(f"tracker: got '{library}', expected {' or '.join(TRACKERS)}.")
        self._library: Any = require(library, f"lumina-core[{library}]", f"tracking with {library}")
        self._name, self._project, self._run = library, project, run
        self._is_open = False

    def on_train_start(self, trainer: Trainer) -> None:
        """Open the run; that of a resumed training is continued."""
        options: dict[str, Any] = {"resume": "allow"}
        if self._name == "wandb":
            options["dir"] = str(trainer.out)
            options["id"] = _run_id(trainer.out)
        self._library.init(
            project=self._project, name=self._run or trainer.out.name, config=trainer.recipe.to_dict(), **options
        )
        self._is_open = True

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Log the metrics of a step."""
        row = metrics.as_row()
        step = int(row.pop("step"))
        self._library.log(row, step=step)

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the run."""
        if self._is_open:
            self._library.finish()
            self._is_open = False


def _run_id(out: Path) -> str:
    """Return the id of a training's run, kept in its folder, so that a resumed training continues the run."""
    path = out / "wandb-id"
    if not path.is_file():
        import uuid

        with atomic_file(path) as partial:
            partial.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


class ProfileCallback(TrainCallback):
    """Profiles some steps: profile/trace.json for https://ui.perfetto.dev, and profile/operations.txt.

    Args:
        num_steps: steps in the profile.
        warmup_steps: steps before it.
    """

    def __init__(self, num_steps: int = 3, warmup_steps: int = WARMUP_STEPS) -> None:
        if num_steps < 1:
            raise ConfigError(f"profile: got {num_steps} steps, expected at least 1.")
        self.num_steps, self.warmup_steps = num_steps, warmup_steps
        self._profiler: profile | None = None
        self._steps = 0

    def on_train_start(self, trainer: Trainer) -> None:
        """Start the profile if there are no steps before it."""
        self._steps = 0
        self._start_if_due(trainer)

    def on_step_end(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Start or end the profile."""
        self._steps += 1
        if self._profiler is not None and self._steps == self.warmup_steps + self.num_steps:
            self._finish(trainer)
        self._start_if_due(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """End a profile that the training was too short for."""
        if self._profiler is not None:
            self._finish(trainer)

    def _start_if_due(self, trainer: Trainer) -> None:
        if self._steps == self.warmup_steps:
            is_cuda = trainer.process.device.type == "cuda"
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
            self._profiler = profile(activities=activities, record_shapes=True)
            self._profiler.start()

    def _finish(self, trainer: Trainer) -> None:
        assert self._profiler is not None
        if trainer.process.device.type == "cuda":
            torch.cuda.synchronize()
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        folder = trainer.out / PROFILE_DIR
        folder.mkdir(exist_ok=True)
        device = "cuda" if trainer.process.device.type == "cuda" else "cpu"
        sort_by = f"self_{device}_time_total"
        with atomic_file(folder / "trace.json") as partial:
            profiler.export_chrome_trace(str(partial))
        with atomic_file(folder / "operations.txt") as partial:
            partial.write_text(profiler.key_averages().table(sort_by=sort_by, row_limit=40) + "\n", encoding="utf-8")
