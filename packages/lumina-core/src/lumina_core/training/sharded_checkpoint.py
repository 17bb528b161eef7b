"""Checkpoints that every process writes its part of, by DCP (torch.distributed.checkpoint), while the training goes on.

The parts are copied first, then written by a thread on a process group of its own: on the group of the training, the
collectives of both would mix and wait for each other.
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina_core.checkpoint.safetensors_io import (
    EMA_PREFIX,
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    SHARDED_DIR,
    write_weights,
)
from lumina_core.checkpoint.sharded import open_averages, write_index
from lumina_core.errors import CheckpointError
from lumina_core.locate import STATE_FILE, WEIGHTS_FILE
from lumina_core.model import Model
from lumina_core.model_dir import atomic_model_dir, write_config
from lumina_core.plugins.registry import Registry
from lumina_core.recipe import Recipe
from lumina_core.training.checkpoint import optimizers_to_tensors, saved_weights
from lumina_core.training.distributed import ProcessInfo, call_in_main, new_cpu_group, wait_for_main
from lumina_core.training.optim import EMA, OptimizersContainer


class ShardedCheckpointer:
    """Writer of checkpoints in parts. All processes call its methods in the same order.

    Args:
        process: this process; its group of processes must have more than one.
        registry: source of the plugin versions in config.json.
    """

    def __init__(self, process: ProcessInfo, registry: Registry) -> None:
        self._process, self._registry = process, registry
        self._group: Any = new_cpu_group()
        self._future: Future[Any] | None = None
        self._target: Path | None = None
        self._folder: ExitStack | None = None

    def start(
        self,
        folder: Path,
        step: int,
        model: Model,
        ema: EMA,
        optimizers: OptimizersContainer,
        base_sha256: str = "",
    ) -> None:
        """Copy the state of a training and begin to write it as a folder; an earlier checkpoint is finished first.

        Of a model with an adapter, only the adapter is written, and the hash of its base.

        Raises:
            CheckpointError: the folder cannot be written, or the earlier checkpoint could not be.
        """
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.finish()
        tensors, scalars = optimizers_to_tensors(optimizers)
        state: dict[str, Tensor] = {
            **{MODEL_PREFIX + name: tensor for name, tensor in saved_weights(model).items()},
            **{EMA_PREFIX + name: tensor for name, tensor in ema.weights.items()},
            **{OPTIMIZER_PREFIX + name: tensor for name, tensor in tensors.items()},
        }
        # DCP copies from GPUs only; on a CPU the training would change the values while they are written
        on_cpu = self._process.device.type == "cpu"
        copies = {name: tensor.detach().clone() if on_cpu else tensor.detach() for name, tensor in state.items()}
        values = {"step": step, "optimizers": scalars} | ({"base_sha256": base_sha256} if base_sha256 else {})
        partial = Path(call_in_main(lambda: self._open_folder(folder, model, values), self._process))
        self._target = folder
        writer = FileSystemWriter(partial / SHARDED_DIR)
        result: Any = async_save(copies, storage_writer=writer, process_group=self._group)
        self._future = result if isinstance(result, Future) else result.upload_completion

    def _open_folder(self, folder: Path, model: Model, state: dict[str, Any]) -> str:
        """Make the temporary folder in the first process; returns its path as text."""
        stack = ExitStack()
        try:
            path = stack.enter_context(atomic_model_dir(folder))
            (path / SHARDED_DIR).mkdir()
            (path / Path(STATE_FILE).parent).mkdir()
            (path / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
            write_config(path, model.recipe, self._registry)
        except (OSError, CheckpointError) as error:
            stack.close()
            raise CheckpointError(f"cannot write {folder} ({error}). Earlier checkpoints are unchanged.") from error
        self._folder = stack
        return str(path)

    def poll(self) -> Path | None:
        """Return the folder of a checkpoint that was completed since the last call, in the first process.

        The first process decides whether it is complete. If each did, one would raise the error of a full disk a step
        before the others, which would wait for it in the next step.

        Raises:
            CheckpointError: the checkpoint could not be written; earlier ones are unchanged.
        """
        if self._future is None or not wait_for_main(self._future.done(), self._process):
            return None
        return self.finish()

    def finish(self) -> Path | None:
        """Wait until the checkpoint is complete; returns its folder in the first process, or None.

        Raises:
            CheckpointError: it could not be written; earlier ones are unchanged.
        """
        if self._future is None:
            return None
        future, folder, target = self._future, self._folder, self._target
        self._future = self._folder = self._target = None
        try:
            metadata = future.result()
        except BaseException as error:
            if folder is not None:
                folder.__exit__(type(error), error, None)  # deletes the temporary folder
            if isinstance(error, (KeyboardInterrupt, SystemExit)):  # DCP's own error is no Exception either
                raise
            raise CheckpointError(
                f"cannot write {target} ({_reason(error)}). Earlier checkpoints are unchanged."
            ) from error
        if folder is None:
            return None
        with folder:  # renames the folder to its name
            directory = Path(str(metadata.storage_meta.checkpoint_id))
            write_index(directory, _index(metadata))
        return target

    def abandon(self) -> None:
        """Delete what is half-written, after an error of the training."""
        folder, self._folder, self._future = self._folder, None, None
        if folder is not None:
            error = RuntimeError("abandoned")
            try:
                folder.__exit__(type(error), error, None)
            except Exception:  # the error of the training is the one to report
                return


def export_checkpoint(folder: Path, model_dir: Path, recipe: Recipe, registry: Registry) -> None:
    """Write the averaged weights of a checkpoint in parts as a model folder, one tensor at a time.

    Raises:
        CheckpointError: the checkpoint is damaged, or the folder cannot be written.
    """
    with atomic_model_dir(model_dir) as partial:
        write_config(partial, recipe, registry)
        write_weights(partial / Path(WEIGHTS_FILE).stem, open_averages(folder))


def _index(metadata: Any) -> dict[str, Any]:
    """Return DCP's metadata as plain data: where the parts of each tensor lie."""
    where = {(one.fqn, tuple(one.offset or ())): info for one, info in metadata.storage_data.items()}
    tensors: dict[str, Any] = {}
    for name, entry in metadata.state_dict_metadata.items():
        parts = []
        for chunk in entry.chunks:
            info = where[name, tuple(chunk.offsets)]
            parts.append([list(chunk.offsets), list(chunk.sizes), info.relative_path, info.offset, info.length])
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        tensors[name] = {"dtype": dtype, "shape": list(entry.size), "parts": parts}
    return tensors


def _reason(error: BaseException) -> str:
    """Return the reason of a failed save in one line: that of the first process that failed."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, CheckpointException) and error.failures:
        rank, failure = next(iter(sorted(error.failures.items())))
        cause = failure[0] if isinstance(failure, tuple) else failure
        return f"process {rank}: {' '.join(str(cause).split())[:200]}"
    return " ".join(str(error).split())[:200]
