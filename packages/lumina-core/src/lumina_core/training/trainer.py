"""Training of a recipe: `Trainer`, its loss module, and the search for the layer behind a NaN."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lumina_core.adapters.source import ADAPTER_DIR
from lumina_core.checkpoint.lazy_tensors import check_finite, read_tensor
from lumina_core.data.words import count_words, write_words
from lumina_core.device import autocast, available_memory, resolve_dtype
from lumina_core.errors import ConfigError, LuminaError, ReportedError
from lumina_core.io import atomic_file, user_path
from lumina_core.locate import LOCK_FILE, check_run_dir, checkpoint_step, find_model
from lumina_core.model import Model, build_model, check_pretrained, has_adapter, with_class_names
from lumina_core.model_dir import (
    matching_weights,
    open_model_dir,
    read_model_config,
    save_model,
)
from lumina_core.models.dit import DiTBackbone
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Conditioner, Dataset, Predict, SupportsAutoencoderLoss, SupportsFit, SupportsNegatives
from lumina_core.recipe import FREE_OPTIONS, Recipe, TrainingConfig, map_paths
from lumina_core.training import distributed
from lumina_core.training.callbacks import (
    CheckpointCallback,
    MetricLogger,
    SampleCallback,
    StepMetrics,
    TrainCallback,
)
from lumina_core.training.checkpoint import (
    delete_old_checkpoints,
    latest_readable_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from lumina_core.training.dataloader import (
    RawBatch,
    SampleKey,
    Stage,
    StepDataset,
    build_stages,
    check_data,
    collate,
    encode_to_tokens,
    make_sampler,
    pad_batch,
    stage_batch_sizes,
)
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.metrics import (
    ANOMALIES_FILE,
    BACKWARD_FACTOR,
    AnomalyCheck,
    StepUsage,
    TimeLeft,
    UsageCounter,
    memory_bytes,
    peak_flops,
    write_anomaly,
)
from lumina_core.training.optim import EMA, build_optimizers, lr_factor, trained_buffers
from lumina_core.types import Condition, Tokens

if TYPE_CHECKING:
    from lumina_core.adapters.lora import BaseHash
    from lumina_core.data.dataset import MapStyleDataset
    from lumina_core.training.cache import LatentCache
    from lumina_core.training.sharded_checkpoint import ShardedCheckpointer


class InterruptedTraining(KeyboardInterrupt):
    """A signal has ended a training after a step; the message says how to go on."""


MAX_CAPTIONED_EXAMPLES = 200_000
"""Largest data set whose captions are read for their words when its model is saved."""
MAX_NEGATIVE_EXAMPLES = 4096
"""Most examples that an objective gets as negatives before a training."""


class Trainer:
    """Training of a recipe in a folder.

    The folder holds metrics.csv, tensorboard/, checkpoints/, samples/, recipe.yaml, and after `train` the model of the
    averaged weights in model/. One training at a time may use a folder. Several processes started by torchrun share the
    batch of each step.

    `train()` runs all steps. A loop of one's own calls `train_step` on the batches of `batches()`, then `save` or
    `save_model`, and `close` at the end; `with Trainer(...) as trainer:` closes it, too.

    Args:
        recipe: a Recipe, the name of an installed one, or the path of a file.
        out: folder of the training, created if it is missing.
        dataset: examples instead of those of the recipe's data set: a `protocols.Dataset`, or a PyTorch data set whose
            items are dicts with the task's data field and the field of each conditioner.
        callbacks: called after the trainer's own, which write metrics, checkpoints and samples.
        device: "cpu", "cuda", "mps", ...; None for the best one available.
        resume: continue from the latest checkpoint in `out`, with the same numbers as without an interruption
            (bit-exact on a CPU). "auto": begin if there is no checkpoint. So does a restart by torchrun.
        init: models whose weights are copied where name and shape fit; the later one wins. Not used with `resume`. For
            a recipe with `training.adapter`: the one model that the adapter is trained on, also with `resume`.
        registry: components; None for those of all installed plugins.

    Attributes:
        step: number of steps so far.
        model, ema, optimizers: state of the training.
        messages: what `init` copied, one line per model; what differs from the run that is resumed.
        base_hash: hash of the model that an adapter is trained on; None without an adapter.

    Raises:
        ConfigError: the recipe, a field of the data or the batch size does not fit; `out` is a file, is in use by
            another training, holds a checkpoint without `resume`, or none with it.
        CheckpointError: weights to resume or to begin from do not fit, or external weights are missing.
        PluginError: a component is not available.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        out: str | Path,
        dataset: Dataset | MapStyleDataset | None = None,
        callbacks: Sequence[TrainCallback] = (),
        device: str | None = None,
        resume: bool | Literal["auto"] = False,
        init: Sequence[str | Path] = (),
        registry: Registry | None = None,
    ) -> None:
        self.registry = load_plugins() if registry is None else registry
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe, registry=self.registry)
        self.out, self.step, self.messages = Path(out), 0, list[str]()
        self.base_hash: BaseHash | None = None
        if self.recipe.training.adapter is not None:
            from lumina_core.adapters.base import use_base_model

            self.recipe, self.messages = use_base_model(self.recipe, init, self.registry)
        self._lock: RunLock | None = None
        self._stopped, self._saved_step, self._is_alone = False, -1, False
        self._signal = 0
        self._checkpointer: ShardedCheckpointer | None = None
        self.process = distributed.init_distributed(device)
        with self._closed_on_error():
            _check_batch_size(self.recipe.training, self.process)
            # the lock first: what is found in the folder is otherwise out of date
            if self.process.is_main:
                self._lock = RunLock(self.out)
            distributed.wait_for_main(True, self.process)
            if init and resume is True and self.recipe.training.adapter is None:
                raise ConfigError(
                    "init: got it together with resume, expected one of them. A resumed training has its weights."
                )
            checkpoint = self._find_checkpoint(resume)
            check_pretrained(self.recipe, self.registry)
            given = None
            if dataset is not None:
                from lumina_core.data.dataset import as_dataset  # a recipe's own data sets need no adapter

                given = as_dataset(dataset)
            self.stages = build_stages(self.recipe, self.registry, given)
            self.dataset = self.stages[0].dataset
            self._complete_recipe(checkpoint)
            torch.manual_seed(self.recipe.training.seed)
            self.model, self.base_hash = build_training_model(self.recipe, self.registry)
            for stage in self.stages:
                _check_batch_memory(stage.global_batch_size, self.process, check_data(self.model, stage.dataset))
            self._load_weights(checkpoint, init)
            # a sharded model moves to the device block by block
            if not self.is_sharded or isinstance(self.model.objective, SupportsNegatives):
                self.model.to(self.process.device)
            if isinstance(self.model.objective, SupportsNegatives):
                self.model.objective.set_negatives(negative_tokens(self.model, self.dataset))
            if not has_adapter(self.model):
                freeze(self.model, self.recipe.training.freeze)
            self._data_seconds, self._time_left = 0.0, TimeLeft()
            own = [
                MetricLogger(self.out),
                CheckpointCallback(),
                SampleCallback(self, checkpoint is None or not self.is_sharded),
            ]
            self.callbacks: list[TrainCallback] = [*own, *callbacks]
            self._loss_module = LossModule(self.model, self.recipe.training, self.process)
            self._loss_module.shares_length = any(stage.dataset.variable_size for stage in self.stages)
            self._peak = peak_flops(self.process.device, self._loss_module.dtype, self.recipe.training.peak_tflops)
            self.parallel_module = parallelize(self._loss_module, self.recipe.training, self.process)
            self.ema = EMA(self.model, self.recipe.training.ema_decay)
            self.optimizers = build_optimizers(self.model, self.recipe.training)
            self._anomalies = AnomalyCheck(self.recipe.training)
            if checkpoint is not None:
                self.load(checkpoint)
                self._anomalies.restore(self.out / "metrics.csv", self.step)
            self._trainable = [p for p in self.model.parameters() if p.requires_grad]
            if self.is_sharded:
                from lumina_core.training.sharded_checkpoint import ShardedCheckpointer

                self._checkpointer = ShardedCheckpointer(self.process, self.registry)

    def train(self) -> Path:
        """Train until the last step of the recipe, or until a callback calls `stop`.

        Returns:
            The folder of the model, or of the adapter; it has the averaged weights.

        SIGINT (Ctrl-C) and SIGTERM end the training after the current step, with a checkpoint; a second one at once.

        Raises:
            CheckpointError: a checkpoint cannot be written.
            LuminaError: the loss or the gradient is not finite, a file cannot be written, or a callback returned a
                value.
            InterruptedTraining: a signal has ended the training; its checkpoint is written.
        """
        with self._closed_on_error(), self._stop_on_signals():
            if self.process.is_main:
                delete_old_checkpoints(self.out, self.recipe.training.keep_latest_k)
                if self.step < self.recipe.training.steps:
                    with atomic_file(self.out / "recipe.yaml") as partial:
                        partial.write_text(self.recipe.to_yaml(), encoding="utf-8")
            try:
                self._call("on_train_start")
                distributed.wait_for_main(True, self.process)  # which may have drawn samples
                for batch in self.batches():
                    metrics = self.train_step(batch)
                    self._call("on_step_end", metrics)
                    self._complete(poll=True)
                    # the first process may have saved, sampled or run a callback for long
                    if distributed.wait_for_main(self._stopped, self.process):
                        if self._saved_step != self.step:
                            self.save()
                        break
                self._complete()
            finally:
                self._call("on_train_end")
            if distributed.broadcast_object(self._signal, self.process) and self.step < self.recipe.training.steps:
                raise InterruptedTraining(
                    f"stopped after step {self.step}; the checkpoint is {self._checkpoint_dir()}. To go on: the same "
                    "command with --resume"
                )
            model_dir = self.save_model()
        self.close()
        return model_dir

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Stop after the current step if SIGINT or SIGTERM arrives, and at once if a second one does."""
        if threading.current_thread() is not threading.main_thread():  # only it may set handlers
            yield
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: Any) -> None:
            if self._signal:
                for other, handler in previous.items():
                    signal.signal(other, handler)
                raise KeyboardInterrupt
            self._signal = number
            self.stop()

        for number in previous:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def train_step(self, batch: RawBatch) -> StepMetrics:
        """Take one optimizer step on this process's share of a batch, and update the averaged weights.

        A step that `training.on_nonfinite` or `training.on_spike` skips changes no weight; its examples are written to
        anomalies.jsonl, and the metrics have `skipped` 1.

        Raises:
            LuminaError: the loss or the gradient is not finite, or a spike, and the setting is to stop; the weights are
                unchanged, and the message names the first layer with an output that is not finite.
        """
        start_time, training, stage = time.perf_counter(), self.recipe.training, self.stage
        factor = lr_factor(self.step, training) * stage.lr / training.lr
        self.optimizers.set_lr_factor(factor)
        loss, terms, grad_norm = self._compute_gradients(batch)
        reason = self._anomalies.reason(float(loss), float(grad_norm))
        if reason is None:
            self.optimizers.step()
        else:
            self._handle_anomaly(batch, reason, float(loss), float(grad_norm))
            terms = {**terms, "skipped": torch.ones(())}
        self.optimizers.zero_grad()
        if self.process.world_size > 1:
            for buffer in trained_buffers(self.model).values():
                buffer.copy_(distributed.all_reduce_mean(buffer, self.process))
        if reason is None:
            self.ema.update(self.model, self.step)
        self.step += 1
        usage = self._loss_module.take_usage()
        seconds = time.perf_counter() - start_time
        data_seconds, self._data_seconds = self._data_seconds, 0.0
        return StepMetrics(
            self.step, float(loss), float(grad_norm), training.lr * factor, seconds,
            stage.global_batch_size / seconds, {name: float(value) for name, value in terms.items()},
            # all processes have as many items, of one length
            usage.tokens * self.process.world_size / seconds,
            None if self._peak is None else BACKWARD_FACTOR * usage.flops / seconds / self._peak,
            memory_bytes(self.process.device), data_seconds,
            self._time_left.update(seconds + data_seconds, training.steps - self.step),
        )  # fmt: skip

    @property
    def stage(self) -> Stage:
        """The stage of the next step; after the last step, the last one."""
        return next((stage for stage in self.stages if self.step < stage.stop), self.stages[-1])

    def batches(self) -> Iterator[RawBatch]:
        """Read this process's share of the batches of all steps that remain, stage by stage."""
        for stage in self.stages:
            if self.step < stage.stop:
                yield from self._stage_batches(stage, self.step)

    def _stage_batches(self, stage: Stage, first_step: int) -> Iterator[RawBatch]:
        order, rank, world_size = make_sampler(stage.dataset, stage.seed), self.process.rank, self.process.world_size
        sampler = (
            # the items of a batch stand in the order of their sizes: every process gets some of each
            order.step_keys(step, stage.global_batch_size)[rank::world_size]
            for step in range(first_step - stage.start, stage.stop - stage.start)
        )
        # batch_size=None: an item of StepDataset is already a batch
        dataset = StepDataset.of_model(stage.dataset, self.model)
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.recipe.training.num_workers)
        batches, start_time = iter(loader), time.perf_counter()
        while (batch := next(batches, None)) is not None:
            self._data_seconds = time.perf_counter() - start_time
            yield batch
            start_time = time.perf_counter()

    def save(self) -> Path:
        """Write a checkpoint, atomically, and delete all but the latest `keep_latest_k`; call in all processes.

        The first process writes; in a sharded training each process writes its part while the training goes on, and
        `on_checkpoint` is called once all parts are written.

        Raises:
            CheckpointError: it cannot be written; older checkpoints are unchanged.
        """
        folder, self._saved_step = self._checkpoint_dir(), self.step
        if self._checkpointer is not None:
            if self._is_alone:
                raise ConfigError(
                    "trainer.save: got a call from a callback in the first process, expected one in all processes: "
                    "each writes its part. Set `all_processes = True` in the callback's class."
                )
            self._complete()
            sha256 = self._base_sha256
            self._checkpointer.start(folder, self.step, self.model, self.ema, self.optimizers, sha256)
            if has_adapter(self.model):
                self._save_adapter()
            return folder
        if not self.process.is_main:
            return folder
        save_checkpoint(folder, self.step, self.model, self.ema, self.optimizers, self.registry, self._base_sha256)
        if has_adapter(self.model):
            self._save_adapter()
        delete_old_checkpoints(self.out, self.recipe.training.keep_latest_k)
        self._call("on_checkpoint", folder)
        return folder

    def load(self, checkpoint: Path) -> None:
        """Load weights, averaged weights, optimizer states and the step of a checkpoint.

        Raises:
            CheckpointError: it is damaged, or of another recipe.
        """
        self.step = self._saved_step = load_checkpoint(checkpoint, self.model, self.ema, self.optimizers)

    def save_model(self) -> Path:
        """Put the averaged weights into the model, and write it to model/, an adapter to lora/; returns this folder."""
        if has_adapter(self.model):
            adapter_dir = self.out / ADAPTER_DIR
            if self.is_sharded or self.process.is_main:
                self._save_adapter()
            self.model.load_state_dict(self.ema.weights, strict=False)
            distributed.wait_for_main(True, self.process)
            return adapter_dir
        model_dir = self.out / "model"
        if self.is_sharded:  # from the parts on the disk: no process needs the memory for the whole
            if self._saved_step != self.step:
                self.save()
            self._complete()
            if self.process.is_main:
                from lumina_core.training.sharded_checkpoint import export_checkpoint

                export_checkpoint(self._checkpoint_dir(), model_dir, self.recipe, self.registry)
            distributed.wait_for_main(True, self.process)
        self.model.load_state_dict(self.ema.state_dict(self.model))
        if self.process.is_main and not self.is_sharded:
            save_model(self.model, model_dir, self.registry)
            self._save_words(model_dir)
        distributed.wait_for_main(True, self.process)
        return model_dir

    def _save_words(self, folder: Path) -> None:
        """Write the words of the captions to a model folder, for notes about prompts that it cannot know."""
        if len(self.dataset) > MAX_CAPTIONED_EXAMPLES:
            return
        texts: list[str] = []
        for field in self.model.conditioners_by_field:
            with contextlib.suppress(LuminaError):  # not every data set can list its values
                texts += [value for value in self.dataset.values(field) if isinstance(value, str)]
        if texts:
            with contextlib.suppress(OSError):  # the model itself is complete
                write_words(folder, count_words(texts))

    def _save_adapter(self) -> None:
        """Write the averaged weights of the adapter to lora/, in peft's format; of a sharded one in all processes."""
        from lumina_core.adapters.files import write_lora
        from lumina_core.adapters.lora import NO_HASH, Lora, extract_lora

        averages = {name: distributed.full_tensor(tensor) for name, tensor in self.ema.weights.items()}
        lora = Lora(extract_lora(self.model, averages), self.recipe.base_model or "", self.base_hash or NO_HASH)
        distributed.call_in_main(
            lambda: write_lora(lora, self.out / ADAPTER_DIR, self.model, self.registry),
            self.process if self.is_sharded else ProcessInfo(0, 1, self.process.device),
        )

    @property
    def _base_sha256(self) -> str:
        return "" if self.base_hash is None else self.base_hash.sha256

    def stop(self) -> None:
        """End `train` after the current step, with a checkpoint and a model."""
        self._stopped = True

    def close(self) -> None:
        """Finish the last checkpoint, release the folder for other trainings, and leave the process group."""
        if self._lock is None and not distributed.is_joined():
            return
        self._complete()
        self._release()
        distributed.shutdown()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if error_type is None:
            self.close()
        else:
            self._abort(False)

    def _handle_anomaly(self, batch: RawBatch, reason: str, loss: float, grad_norm: float) -> None:
        """Write the examples of a step that is not to be taken; raise an error if the setting is to stop."""
        training = self.recipe.training
        is_nonfinite = not math.isfinite(loss + grad_norm)
        action = training.on_nonfinite if is_nonfinite else training.on_spike
        if self.process.is_main:
            keys: Sequence[SampleKey] = batch.keys
            if self.process.world_size > 1:  # a process has a share of the batch only
                sampler = make_sampler(self.stage.dataset, self.stage.seed)
                keys = sampler.step_keys(self.step - self.stage.start, self.stage.global_batch_size)
            indices = [key.index for key in keys]
            write_anomaly(self.out, self.step + 1, reason, action, loss, grad_norm, indices)
        if action == "skip":
            return
        if is_nonfinite:
            raise find_nonfinite_layer(self.model, lambda: self._loss_module(batch, eager=True), self.step)
        raise LuminaError(
            f"step {self.step + 1}: {reason} (training.spike_factor). The weights are unchanged, and the examples are "
            f"in {ANOMALIES_FILE}. Lower training.lr, or set training.on_spike to skip."
        )

    def _compute_gradients(self, batch: RawBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute the gradients of a batch, clipped; returns loss, terms and the norm before clipping.

        If a compiled step is not finite and the same step without torch.compile is, the training goes on without it:
        the fault is the compiler's, not the model's. All processes have the same loss and norm, and so decide alike.
        """
        loss, terms = self._forward_backward(batch)
        grad_norm = distributed.clip_grad_norm(self._trainable, self.recipe.training.max_norm)
        if self._loss_module.is_compiled and not bool(torch.isfinite(loss + grad_norm)):
            self.optimizers.zero_grad()
            self._loss_module.is_compiled = False
            loss, terms = self._forward_backward(batch)
            grad_norm = distributed.clip_grad_norm(self._trainable, self.recipe.training.max_norm)
            if bool(torch.isfinite(loss + grad_norm)) and self.process.is_main:
                warnings.warn(
                    f"step {self.step + 1}: torch.compile gave NaN or Inf where the same step without it is finite; "
                    "training without torch.compile, which is slower (training.compile: false)",
                    stacklevel=3,
                )
        return loss, terms, grad_norm

    def _forward_backward(self, batch: RawBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute gradients in micro-batches; returns loss and terms, averaged over all processes."""
        size = len(batch.keys)
        count = min(self.recipe.training.gradient_accumulation_steps, size)
        slices = [slice(k * size // count, (k + 1) * size // count) for k in range(count)]
        total, terms = torch.zeros((), device=self.process.device), dict[str, Tensor]()
        for rows in slices:
            weight = (rows.stop - rows.start) / size
            with contextlib.nullcontext() if rows is slices[-1] else distributed.no_sync(self.parallel_module):
                loss, loss_terms = self.parallel_module(batch.microbatch(rows))
                (loss * weight).backward()
            total = total + loss.detach() * weight
            for name, value in loss_terms.items():
                terms[name] = terms.get(name, 0) + value * weight
        self._loss_module.clear_unused_grads()
        means = distributed.all_reduce_mean(torch.stack([total, *terms.values()]), self.process)
        return means[0], dict(zip(terms, means[1:], strict=True))

    def _find_checkpoint(self, resume: bool | Literal["auto"]) -> Path | None:
        """Return the checkpoint to resume from, after a comparison of its recipe with this one."""
        check_run_dir(self.out, "auto" if distributed.is_restarted() else resume)
        checkpoint, damaged = latest_readable_checkpoint(self.out)
        if checkpoint is None:
            return None
        distributed.wait_for_main(True, self.process)  # every process has looked, before the first one renames
        for folder, reason in damaged.items():
            self.messages.append(f"{folder.name} is damaged; resumed from {checkpoint.name} instead ({reason})")
            if self.process.is_main:  # out of the way, so that it does not count as the latest one
                folder.rename(folder.with_name(f"damaged-{folder.name}-{time.time_ns()}"))
        return checkpoint

    def _load_weights(self, checkpoint: Path | None, init: Sequence[str | Path]) -> None:
        """Load the weights of a checkpoint, or copy those of other models; an adapter's base is loaded already."""
        if checkpoint is not None:
            if not self.is_sharded:  # of a sharded model, each process loads its part later
                load_weights(checkpoint, self.model, self._base_sha256)
        elif not has_adapter(self.model):
            self._init_weights([*([self.recipe.base_model] if self.recipe.base_model else []), *init])

    def _complete_recipe(self, checkpoint: Path | None) -> None:
        """Put the class names of the data set into the recipe, and compare it with that of a checkpoint."""
        self.recipe = with_class_names(self.recipe, self.dataset, self.registry)
        if checkpoint is None:
            return
        self.messages += compare_recipes(read_model_config(checkpoint)[0], self.recipe)
        step = checkpoint_step(checkpoint)
        if step >= self.recipe.training.steps:
            self.messages.append(
                f"the run is at step {step} already, and training.steps is {self.recipe.training.steps}: nothing is "
                "trained"
            )

    def _init_weights(self, init: Sequence[str | Path]) -> None:
        """Copy weights of other models, then fit the conditioners that are still new to the data set."""
        copied: set[str] = set()
        for folder in init:
            with find_model(folder, self.registry) as path:
                fitting = matching_weights(self.model, open_model_dir(path, self.registry).weights)
                weights = {name: read_tensor(tensor) for name, tensor in fitting.items()}
                for name, weight in weights.items():
                    check_finite(weight, name, str(folder))
            if not weights:
                raise ConfigError(
                    f"init: got {folder}, none of whose weights fits the recipe by name and shape. Choose a model of a "
                    "similar recipe."
                )
            self.model.load_state_dict(weights, strict=False)
            copied |= set(weights)
            new = sorted({name.rsplit(".", 1)[0] for name in self.model.state_dict() if name not in copied})
            rest = f"new: {', '.join(new[:4])}{' ...' if len(new) > 4 else ''}" if new else "nothing is new"
            self.messages.append(f"copied {len(weights)} tensors of {folder}; {rest}")
        fit_conditioners(self.model, self.dataset, copied)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of matrix products."""
        return self._loss_module.dtype

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.recipe.training.parallel != "ddp" and self.process.world_size > 1

    def _checkpoint_dir(self) -> Path:
        return self.out / "checkpoints" / f"step-{self.step:08d}"

    def report_samples(self, path: Path, captions: Sequence[str]) -> None:
        """Call `on_samples` of all callbacks, in the first process."""
        self._call("on_samples", path, captions)

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            is_report = event in ("on_checkpoint", "on_samples")
            if not (self.process.is_main or (callback.all_processes and not is_report)):
                continue
            was_alone, self._is_alone = self._is_alone, not callback.all_processes or is_report
            try:
                result = getattr(callback, event)(self, *args)
            finally:
                self._is_alone = was_alone
            if result is not None:
                raise ConfigError(
                    f"{type(callback).__name__}.{event}: got the return value {result!r}, expected None. To end the "
                    "training, call trainer.stop()."
                )

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            lost = distributed.describe_lost_process(error) if self.process.world_size > 1 else None
            if not self._abort(lost is not None):
                raise ReportedError(f"{self.out}: another process reports why the training stopped") from error
            if lost is not None:
                raise LuminaError(f"{self.out}: {lost}") from error
            if isinstance(error, OSError):
                raise LuminaError(
                    f"{self.out}: the training stopped ({error}). Checkpoints that were complete before still are."
                ) from error
            raise

    def _abort(self, is_lost_process: bool) -> bool:
        """Close after an error; returns whether this process reports it."""
        if self._checkpointer is not None:
            self._checkpointer.abandon()
        self._release()
        return distributed.claim_report(is_lost_process)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _complete(self, poll: bool = False) -> None:
        """Finish the checkpoint that is being written; with `poll`, only if that needs no waiting."""
        if self._checkpointer is None:
            return
        folder = self._checkpointer.poll() if poll else self._checkpointer.finish()
        if folder is not None:
            delete_old_checkpoints(self.out, self.recipe.training.keep_latest_k)
            self._call("on_checkpoint", folder)


class RunLock:
    """Lock of a training's folder. The operating system releases it if the process ends.

    File systems without locks are not protected.

    Raises:
        ConfigError: `out` is a file, or another training uses it.
    """

    def __init__(self, out: Path) -> None:
        check_run_dir(out)
        self._new_dirs = [one for one in (out, *out.parents) if not one.exists()]
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / LOCK_FILE
        if self._path.is_symlink():
            raise ConfigError(f"out: got {out}, whose {LOCK_FILE} is a link, expected a file of a training. Delete it.")
        self._lock = FileLock(self._path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"out: got {out}, which another training uses, expected a free folder. Wait for the other training, "
                "stop it, or choose another folder."
            ) from error
        except NotImplementedError:
            pass

    def release(self) -> None:
        """Release the folder, and delete it if it is new and still empty, with its new parents."""
        with contextlib.suppress(OSError):
            if self._new_dirs and {path.name for path in self._new_dirs[0].iterdir()} == {LOCK_FILE}:
                self._path.unlink()
                for folder in self._new_dirs:
                    folder.rmdir()
        self._lock.release()


def build_training_model(recipe: Recipe, registry: Registry) -> tuple[Model, BaseHash | None]:
    """Build the model of a recipe; with `training.adapter` its base model with a new adapter, and the base's hash.

    Raises:
        LuminaError: a component is not available, or the adapter does not fit the base model.
    """
    if recipe.training.adapter is not None:
        from lumina_core.adapters.base import build_adapted_model

        return build_adapted_model(recipe, registry)
    model = build_model(recipe, registry)
    check_untied(model)
    return model, None


def check_untied(model: nn.Module) -> None:
    """Check that no tensor has two names: a file of weights holds each once, and training would count it twice.

    Raises:
        ConfigError: a tensor has two names.
    """
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        first = names.setdefault(id(tensor), name)
        if first != name:
            raise ConfigError(
                f"model: got one tensor under two names, {first} and {name}, expected a name for each. Make it a "
                "member of one module, and pass it to the other when it computes."
            )


def _check_batch_size(training: TrainingConfig, process: ProcessInfo) -> None:
    for index, size in enumerate(stage_batch_sizes(training)):
        if size % process.world_size:
            name = f"training.stages[{index}].global_batch_size" if training.stages else "training.global_batch_size"
            raise ConfigError(
                f"{name}: got {size} for {process.world_size} processes, expected a multiple of {process.world_size}."
            )
    adapter = training.adapter
    if adapter is not None and training.parallel != "ddp" and process.world_size > 1:
        by_rows = adapter.method == "dora" and any("[" in target for target in adapter.targets)
        if by_rows or adapter.base_dtype in ("int8", "int4"):
            reason = "DoRA of single projections" if by_rows else f"a base in {adapter.base_dtype}"
            raise ConfigError(
                f"training.parallel: got {training.parallel} with {reason}, expected ddp. Remove the key, or "
                f"{'train whole matrices' if by_rows else 'store the base in bfloat16'}."
            )
    if training.parallel == "hsdp" and process.world_size > 1:
        distributed.check_shard_size(training.shard_size, process.world_size)


FIXED_KEYS = ("task", "tokenizer", "autoencoder", "conditioners", "backbone", "head", "objective")
"""Keys of a recipe that a resumed training cannot change, besides FIXED_TRAINING_KEYS."""
FIXED_TRAINING_KEYS = ("seed", "optimizer", "freeze")


def compare_recipes(previous: Recipe, recipe: Recipe) -> list[str]:
    """Return one line per key that a resumed training changes; paths of pretrained files may differ.

    Raises:
        ConfigError: a key differs that must stay the same in a training.
    """
    lines: list[str] = []
    old, new = (_flatten(map_paths(one.to_dict(False), lambda _: "")) for one in (previous, recipe))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key.rpartition(".")[2] in (*FREE_OPTIONS, "sha256"):
            continue
        change = f"{key}: got {_shown(new, key)}, and the run has {_shown(old, key)}"
        parts = key.split(".")
        if parts[0] in FIXED_KEYS or (parts[0] == "training" and parts[1] in FIXED_TRAINING_KEYS):
            raise ConfigError(
                f"{change}, which a resumed training cannot change. Resume with the recipe of the run (its "
                "recipe.yaml), or train in a new folder, for example with the weights of this one (init)."
            )
        lines.append(f"changed: {change}")
    return lines


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = "no such key" if key not in values else repr(values[key])
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return plain data as one value per path of keys, `backbone.num_layers`; empty containers are values."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    flat: dict[str, Any] = {}
    for key, value in items:
        path = f"{prefix}{key}"
        if isinstance(value, (Mapping, list, tuple)) and value:
            flat |= _flatten(value, f"{path}.")
        else:
            flat[path] = [] if isinstance(value, tuple) else value
    return flat


def optional_weights(model: Model) -> dict[str, nn.Parameter]:
    """Return the trained weights that a step may leave without a gradient, by name.

    A conditioner's null embedding takes part only if an item's conditions are dropped; backbone and head always do.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(("backbone.", "head."))
    }


def parallelize(loss_module: LossModule, training: TrainingConfig, process: ProcessInfo) -> nn.Module:
    """Prepare a loss module for several processes; a single one gets the module itself."""
    model = loss_module.model
    if training.parallel == "ddp" or process.world_size == 1:
        return distributed.wrap_ddp(loss_module, process, bool(optional_weights(model)))
    size = None
    if training.parallel == "hsdp":
        size = distributed.check_shard_size(training.shard_size, process.world_size)
    param_dtype = None if loss_module.dtype == torch.float32 else loss_module.dtype
    frozen = [] if training.shard_frozen else [p for p in model.parameters() if not p.requires_grad]
    blocks: list[nn.Module] = []
    if isinstance(model.backbone, DiTBackbone):
        blocks = list(model.backbone.blocks)
        # frozen blocks are large: they are always divided
        in_blocks = {id(p) for block in blocks for p in block.parameters()}
        frozen = [p for p in frozen if id(p) not in in_blocks]
        if training.compile:
            compile_blocks(model.backbone, process.device)
    loss_module.track_unused_weights()
    methods = ("project_kv", "block_input")  # of blocks; sampling calls them
    return distributed.shard_module(
        loss_module, blocks, process, distributed.ShardOptions(size, param_dtype), frozen, methods
    )


def _check_batch_memory(batch_size: int, process: ProcessInfo, examples: RawBatch) -> None:
    """Raise ConfigError if the examples of one step do not fit the memory: reading them would not end."""
    needed = batch_size // process.world_size * max(item.nbytes for item in examples.data)
    available = available_memory(torch.device("cpu"))
    if available is not None and needed > available:
        raise ConfigError(
            f"training.global_batch_size: got {batch_size}, whose examples need {needed / 2**30:,.0f} "
            f"GiB in each process, expected at most {available / 2**30:,.0f} GiB, which are free."
        )


def fit_conditioners(model: Model, dataset: Dataset, copied: set[str] | frozenset[str] = frozenset()) -> None:
    """Fit conditioners to the values of a data set, except those with copied weights."""
    for field, conditioner in model.conditioners_by_field.items():
        prefix = f"conditioners.{field}."
        if isinstance(conditioner, SupportsFit) and not any(name.startswith(prefix) for name in copied):
            conditioner.fit(dataset.values(field))


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Put a model into training mode, except frozen components (`conditioners.caption`).

    Raises:
        ConfigError: a prefix matches no weight.
    """
    model.train()
    for prefix in prefixes:
        parameters = [p for name, p in model.named_parameters() if name.startswith(prefix + ".")]
        if not parameters:
            raise ConfigError(
                f"training.freeze: got '{prefix}', expected the beginning of a weight's name, such as 'backbone' or "
                "'conditioners.caption'."
            )
        for parameter in parameters:
            parameter.requires_grad_(False)
        model.get_submodule(prefix).eval()


def negative_tokens(model: Model, dataset: Dataset) -> Tensor:
    """Return clean tokens (M, N, D) from all over a data set, at most MAX_NEGATIVE_EXAMPLES."""
    indices = range(0, len(dataset), -(-len(dataset) // MAX_NEGATIVE_EXAMPLES))
    data = [dataset.get(index, SampleKey(index, index).python_rng())[model.task.data_field] for index in indices]
    return encode_to_tokens(model, data).values


def compute_dtype(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; bfloat16 if the base of an adapter is stored in bfloat16 or in 4 bits.

    Raises:
        ConfigError: `mixed_precision` asks for float32 with such a base.
    """
    adapter = training.adapter
    if adapter is None or adapter.base_dtype not in ("bfloat16", "int4"):
        return resolve_dtype(training.mixed_precision, device)
    if training.mixed_precision == "float32":
        raise ConfigError(
            f"training.adapter.base_dtype: got {adapter.base_dtype} with `mixed_precision: float32`, expected float32 "
            "or int8. Change one of both."
        )
    return torch.bfloat16


class LossModule(nn.Module):
    """Loss of a batch as a module: everything that has a gradient happens in its forward pass, as DDP requires."""

    def __init__(self, model: Model, training: TrainingConfig, process: ProcessInfo) -> None:
        super().__init__()
        self.model, self.cond_dropout, self.device = model, training.cond_dropout, process.device
        self.dtype = compute_dtype(training, process.device)
        self._backbone = UsageCounter(model.backbone)
        self.conditioners_by_field: Mapping[str, Conditioner] = model.conditioners_by_field
        self.shares_length = False
        """Whether processes pad their shares of a step to one length, so that all compute the same shape."""
        self.latent_cache: LatentCache | None = None
        if training.cache_latents or any(one.cacheable for one in model.conditioners_by_field.values()):
            self._add_cache(training)
        self.process, self._used_weights, self._usage = process, dict[str, bool](), StepUsage()
        self.is_compiled = training.compile and (training.parallel == "ddp" or process.world_size == 1)
        """Whether the forward pass runs compiled as a whole; may be set to False between steps."""
        self._compiled_predict = CompiledPredict(model.predict, process.device) if self.is_compiled else model.predict

    def _add_cache(self, training: TrainingConfig) -> None:
        from lumina_core.training.cache import Cache, LatentCache, cache_conditioners, encode_batch_size

        folder = None if training.cache_dir is None else user_path(training.cache_dir)
        cache = Cache(training.cache_bytes, folder, training.cache_dir_bytes, self.device)
        batch_size, model = encode_batch_size(self.device), self.model
        self.conditioners_by_field = cache_conditioners(model.conditioners_by_field, cache, batch_size)
        if training.cache_latents:
            precision, spec = f"{self.device.type} {self.dtype}", model.recipe.autoencoder
            self.latent_cache = LatentCache(model.autoencoder, spec, cache, precision, batch_size)

    def forward(self, raw_batch: RawBatch, eager: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean loss of the items, and its terms; `eager` does without torch.compile."""
        total, terms = self._loss(raw_batch, eager)
        return (self._with_unused_weights(total) if self._used_weights else total), terms

    def track_unused_weights(self) -> None:
        """Give a gradient to weights that a step does not use: sharded gradients are reduced in all processes or none.

        Without this, a process whose items have no dropped conditions would wait for the others forever.
        """
        self._used_weights = dict.fromkeys(optional_weights(self.model), False)

    def take_usage(self) -> StepUsage:
        """Return what forward passes have processed since the last call."""
        usage, self._usage = self._usage, StepUsage()
        return usage

    def clear_unused_grads(self) -> None:
        """Delete the gradients of weights that no process used in this step, so that optimizers skip them."""
        if not self._used_weights:
            return
        used = distributed.all_reduce_any(list(self._used_weights.values()), self.process)
        parameters = optional_weights(self.model)
        for name, is_used in zip(self._used_weights, used, strict=True):
            self._used_weights[name] = False
            if not is_used:
                parameters[name].grad = None

    def _with_unused_weights(self, loss: Tensor) -> Tensor:
        weights = optional_weights(self.model)
        for (name, weight), used in zip(
            weights.items(), distributed.used_parameters(loss, list(weights.values())), strict=True
        ):
            self._used_weights[name] |= used
            if not used:
                loss = loss + 0 * weight.sum()
        return loss

    def _loss(self, raw_batch: RawBatch, eager: bool) -> tuple[Tensor, dict[str, Tensor]]:
        generators = [key.torch_generator() for key in raw_batch.keys]
        with autocast(self.dtype, self.device):
            if isinstance(self.model.objective, SupportsAutoencoderLoss):
                return self._autoencoder_loss(self.model.objective, raw_batch, generators)
            batch = collate(
                self.model, raw_batch, generators, self.cond_dropout, self.conditioners_by_field, self.latent_cache
            )
            if self.shares_length and self.process.world_size > 1:
                batch = pad_batch(batch, distributed.all_reduce_max(batch.tokens.values.shape[1], self.process))
            self._usage.add(self._backbone.count(batch))
            predict = self._compiled_predict if self.is_compiled and not eager else self.model.predict
            loss = self.model.objective.loss(predict, batch, generators)
        return loss.total, loss.terms

    def _autoencoder_loss(
        self, objective: SupportsAutoencoderLoss, raw_batch: RawBatch, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the items; items of one size are reconstructed together."""
        by_shape: dict[torch.Size, list[int]] = {}
        for index, item in enumerate(raw_batch.data):
            by_shape.setdefault(item.shape, []).append(index)
        total, terms = torch.zeros((), device=self.device), dict[str, Tensor]()
        for indices in by_shape.values():
            data = torch.stack([raw_batch.data[index] for index in indices]).to(self.device)
            loss = objective.autoencoder_loss(self.model.autoencoder, data, [generators[index] for index in indices])
            weight = len(indices) / len(raw_batch.data)
            total = total + loss.total * weight
            terms = {name: terms.get(name, 0) + value * weight for name, value in loss.terms.items()}
        return total, terms


class CompiledPredict:
    """Compiled forward pass: one static graph for the first number of tokens, one dynamic graph for all others.

    A static graph per number of tokens would take minutes each, and torch stops compiling after a handful.
    """

    def __init__(self, predict: Predict, device: torch.device) -> None:
        self._static, self._dynamic = compile_predict(predict, device), compile_predict(predict, device, dynamic=True)
        self._static_length: int | None = None

    def __call__(self, tokens: Tokens, t: Tensor | None, condition: Condition) -> Tensor:
        """Return what the uncompiled forward pass returns."""
        length = tokens.values.shape[1]
        self._static_length = self._static_length or length
        return (self._static if length == self._static_length else self._dynamic)(tokens, t, condition)


def compile_blocks(backbone: DiTBackbone, device: torch.device) -> None:
    """Compile each block of a backbone; without a C++ compiler on a CPU, leave it as it is, with a warning."""
    if _can_compile(device):
        backbone.compile_blocks()


def _can_compile(device: torch.device) -> bool:
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        warnings.warn("no C++ compiler found: training without torch.compile, which is slower", stacklevel=3)
        return False
    return True


def compile_predict(predict: Predict, device: torch.device, dynamic: bool = False) -> Predict:
    """Compile a forward pass; without a C++ compiler on a CPU, return it as it is, with a warning."""
    if not _can_compile(device):
        return predict
    compiled_predict: Predict = torch.compile(predict, dynamic=dynamic)
    return compiled_predict


def find_nonfinite_layer(model: nn.Module, forward: Callable[[], Any], step: int) -> LuminaError:
    """Return an error that names the first layer whose output holds NaN or Inf.

    Args:
        model: its layers are watched.
        forward: repeats the forward pass of the step, with gradients: without them, other CPU kernels would run.
        step: the step (the first is 0).
    """
    layers: list[str] = []
    handles = [module.register_forward_hook(_make_hook(name, layers)) for name, module in model.named_modules() if name]
    try:
        with torch.enable_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    nonfinite = [
        f"the weights {name}"
        for name, weight in model.named_parameters()
        if not bool(torch.isfinite(distributed.local_tensor(weight)).all())
    ]
    source = [*layers, *nonfinite, "the loss or its gradient (the output of every layer is finite)"][0]
    return LuminaError(
        f"step {step + 1}: got NaN or Inf, first from {source}. The weights are unchanged. Lower training.lr or "
        "training.max_norm, or set training.mixed_precision to float32."
    )


def _make_hook(name: str, layers: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not layers and not all(bool(torch.isfinite(tensor).all()) for tensor in _float_tensors(output)):
            layers.append(f"{name} ({type(module).__name__})")

    return hook


def _float_tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        children = list(output.values())
    elif isinstance(output, (list, tuple)):
        children = list(output)
    else:
        children = [vars(output)[field.name] for field in fields(output)] if is_dataclass(output) else []
    return [tensor for child in children for tensor in _float_tensors(child)]
