"""A whole run: from a recipe and a folder to a trained model in it. The only place of training with a clock."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.device import autocast, resolve_dtype
from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.io import atomic_file
from lumina_core.model import ComponentRegistry, Model, build_dataset, build_model, check_pretrained
from lumina_core.model_dir import (
    WEIGHTS_FILE,
    describe_mismatch,
    matching_weights,
    open_model_dir,
    read_weights,
    save_model,
)
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Dataset, Predict, SupportsFit
from lumina_core.recipe import Recipe, TrainingConfig
from lumina_core.request import Request
from lumina_core.sampling.generate import generate_batch
from lumina_core.training import distributed
from lumina_core.training.cache import DiskCache, cache_conditioners, make_latent_cache
from lumina_core.training.checkpoint import (
    TrainState,
    delete_old_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from lumina_core.training.dataloader import (
    RawBatch,
    SampleKey,
    StepDataset,
    StepSampler,
    check_data_sizes,
    collate,
    encode_to_tokens,
    make_sampler,
)
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.metrics import MetricLogger
from lumina_core.training.optim import EMA, OptimizersContainer, build_optimizers, lr_factor
from lumina_core.types import Condition, Loss, Tokens


def find_nonfinite_layer(model: nn.Module, forward: Callable[[], Any], step: int) -> LuminaError:
    """An error that names the first layer whose output holds NaN or Inf.

    Args:
        again: runs the forward pass of the step once more.
    """
    layers: list[str] = []
    handles = [module.register_forward_hook(_make_hook(name, layers)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    location = (
        layers[0]
        if layers
        else _nonfinite_weights(model) or "the loss or its gradient (every layer's output is finite)"
    )
    return LuminaError(
        f"step {step + 1}: NaN or Inf, first made by {location}. Nothing was changed by this step; try a lower "
        "training.lr, a smaller training.max_norm, or training.mixed_precision=float32"
    )


def _make_hook(name: str, layers: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not layers and not all(bool(torch.isfinite(tensor).all()) for tensor in _float_tensors(output)):
            layers.append(f"{name} ({type(module).__name__})")

    return hook


def _float_tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, dict) else getattr(output, "__dict__", {}).values()
    children = output if isinstance(output, (list, tuple)) else values
    return [tensor for value in children for tensor in _float_tensors(value)]


def _nonfinite_weights(model: nn.Module) -> str | None:
    names = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    return f"the weights {names[0]}" if names else None


AutoencoderLossFn = Callable[[Any, Tensor, Sequence[torch.Generator]], Loss]
"""An objective's `rebuild`: (autoencoder, data of one size, one generator an item) -> the mean loss."""


class LossModule(nn.Module):
    """What is shared among processes: everything with a gradient happens inside its forward."""

    def __init__(self, model: Model, training: TrainingConfig, process: ProcessInfo) -> None:
        super().__init__()
        self.model, self.cond_dropout = model, training.cond_dropout
        self.dtype, self.device = resolve_dtype(training.mixed_precision, process.device), process.device
        cache_dir = training.cache_dir
        disk_cache = None if cache_dir is None else DiskCache(Path(cache_dir), training.cache_dir_bytes, process.device)
        self.conditioners_by_field = cache_conditioners(model.conditioners_by_field, training.cache_bytes, disk_cache)
        self.latent_cache = (
            make_latent_cache(
                model.autoencoder, model.recipe.autoencoder, training.cache_bytes, disk_cache,
                f"{process.device.type} {self.dtype}",
            )
            if training.cache_latents else None
        )  # fmt: skip
        self._predict = CompiledPredict(model.predict, process.device) if training.compile else model.predict

    def forward(self, raw_batch: RawBatch, eager: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the items, and its terms; `plain`: not compiled, so that layers can be watched."""
        generators = [draw.torch_generator() for draw in raw_batch.keys]
        autoencoder_loss = getattr(self.model.objective, "autoencoder_loss", None)
        with autocast(self.dtype, self.device):
            if autoencoder_loss is not None:
                return self._autoencoder_loss(autoencoder_loss, raw_batch, generators)
            batch = collate(
                self.model, raw_batch, generators, self.cond_dropout, self.conditioners_by_field, self.latent_cache
            )
            predict = self.model.predict if eager else self._predict
            loss = self.model.objective.loss(predict, batch, generators)
        return loss.total, loss.terms

    def _autoencoder_loss(
        self, loss_fn: AutoencoderLossFn, raw_batch: RawBatch, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the items, which are rebuilt together where they have one size."""
        by_shape: dict[torch.Size, list[int]] = {}
        for index, item in enumerate(raw_batch.data):
            by_shape.setdefault(item.shape, []).append(index)
        total, terms = torch.zeros((), device=self.device), dict[str, Tensor]()
        for indices in by_shape.values():
            data = torch.stack([raw_batch.data[index] for index in indices]).to(self.device)
            loss = loss_fn(self.model.autoencoder, data, [generators[index] for index in indices])
            weight = len(indices) / len(raw_batch.data)
            total = total + loss.total * weight
            terms = {name: terms.get(name, 0) + value * weight for name, value in loss.terms.items()}
        return total, terms


class CompiledPredict:
    """A prediction, compiled: for the first number of tokens exactly, and once more for all others together.

    A graph for each of many sizes would take minutes each, and past a handful of them torch compiles no more.
    """

    def __init__(self, predict: Predict, device: torch.device) -> None:
        self._static, self._dynamic = compile_predict(predict, device), compile_predict(predict, device, dynamic=True)
        self._static_length: int | None = None

    def __call__(self, tokens: Tokens, t: Tensor | None, condition: Condition) -> Tensor:
        """As the prediction itself."""
        count = tokens.values.shape[1]
        self._static_length = self._static_length or count
        return (self._static if count == self._static_length else self._dynamic)(tokens, t, condition)


def compile_predict(predict: Predict, device: torch.device, dynamic: bool = False) -> Predict:
    """The compiled form of a prediction; itself where this machine has nothing to compile with."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        warnings.warn("no C++ compiler found: training without torch.compile, which is slower", stacklevel=2)
        return predict
    compiled_predict: Predict = torch.compile(predict, dynamic=dynamic)
    return compiled_predict


@dataclass(frozen=True)
class StepMetrics:
    """What one step says of itself."""

    loss: float
    grad_norm: float
    terms: dict[str, float]


class TrainStep:
    """Moves a model's weights one batch at a time, and the average of its weights with them."""

    def __init__(
        self, model: Model, training: TrainingConfig, process: ProcessInfo, optimizers: OptimizersContainer
    ) -> None:
        self.model, self.training, self.process, self.optimizers = model, training, process, optimizers
        self.loss_module = distributed.wrap_ddp(LossModule(model, training, process), process)
        self.trainable = [p for p in model.parameters() if p.requires_grad]

    def step(self, step: int, raw_batch: RawBatch) -> StepMetrics:
        """Carry out step `number` (0 the first) on this process's share of the batch.

        Raises:
            LuminaError: the loss or the gradient is not a number; the message names the first layer that made it so.
        """
        self.optimizers.set_lr_factor(lr_factor(step, self.training))
        loss, terms = self._backward(raw_batch)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.training.max_norm, foreach=True)
        if not bool(torch.isfinite(loss + norm)):
            raise find_nonfinite_layer(self.model, lambda: self.loss_module(raw_batch, eager=True), step)
        self.optimizers.step()
        self.optimizers.zero_grad()
        return StepMetrics(float(loss), float(norm), {name: float(value) for name, value in terms.items()})

    def _backward(self, raw_batch: RawBatch) -> tuple[Tensor, dict[str, Tensor]]:
        num_microbatches = min(self.training.gradient_accumulation_steps, len(raw_batch.keys))
        slices = [
            slice(k * len(raw_batch.keys) // num_microbatches, (k + 1) * len(raw_batch.keys) // num_microbatches)
            for k in range(num_microbatches)
        ]
        total, terms = torch.zeros((), device=self.process.device), dict[str, Tensor]()
        for rows_slice in slices:
            weight = (rows_slice.stop - rows_slice.start) / len(raw_batch.keys)
            loss, loss_terms = self.loss_module(raw_batch.microbatch(rows_slice))
            (loss * weight).backward()
            total = total + loss.detach() * weight
            terms = {name: terms.get(name, 0) + value * weight for name, value in loss_terms.items()}
        return distributed.all_reduce_mean(total, self.process), terms


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the folder of a run while it is written to; a process that dies lets go of it.

    Raises:
        ConfigError: another process trains into it.
    """
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process trains into {out} at this moment; wait for it, stop it, or choose another --out"
        ) from error
    except NotImplementedError:  # a file system without locks: then nobody can be told
        pass
    try:
        yield
    finally:
        lock.release()


def save_sample_grid(
    model: Model, registry: ComponentRegistry, ema_weights: Mapping[str, Tensor], folder: Path, step: int
) -> Path:
    """Answer the recipe's `sample_requests` with the averaged weights; gives the file written.

    The weights in training come back afterwards bit for bit.
    """
    requests = [
        model.task.Request.read(dict(fields), "training.sample_requests")
        for fields in model.recipe.training.sample_requests
    ]
    train_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    model.load_state_dict(dict(ema_weights))
    model.eval()
    try:
        samples = generate_batch(model, registry, [r for r in requests if isinstance(r, Request)]).items()
    finally:
        model.load_state_dict(train_weights)
        for name, module in model.named_modules():
            module.training = modes[name]
    return model.generation_task.save_grid(samples, folder, f"step-{step:08d}")


MAX_NEGATIVE_EXAMPLES = 4096
"""Examples at most that an objective may survey before a run."""


@dataclass(frozen=True)
class TrainArgs:
    """What the user asked of a run beside the recipe."""

    out: Path
    resume: bool = False
    init: tuple[Path, ...] = ()
    """Models to begin from; where two have a weight, the later one's counts."""
    device: str | None = None
    quiet: bool = False


def train(recipe: Recipe, registry: Registry, args: TrainArgs) -> Path:
    """Train a recipe; returns the folder of the finished model.

    Raises:
        ConfigError: the folder holds a run already and `resume` was not asked for, it is a file, or another process
            trains into it.
        CheckpointError: what is resumed or begun from does not fit, or a checkpoint cannot be written.
        LuminaError: a step went wrong, or a file of the run cannot be written.
    """
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a file; a run needs a folder, a new one or its own: choose another")
    process = distributed.init_distributed(args.device)
    try:
        return _run(recipe, registry, args, process)
    except OSError as error:
        raise LuminaError(f"the run in {args.out} stopped: {error}; what was saved before is still whole") from error
    finally:
        distributed.shutdown()


def _run(recipe: Recipe, registry: Registry, args: TrainArgs, process: ProcessInfo) -> Path:
    checkpoint = latest_checkpoint(args.out)
    if checkpoint is not None and not args.resume:
        raise ConfigError(
            f"{args.out} holds a run already ({checkpoint.name}); go on with --resume or choose another --out"
        )
    check_pretrained(recipe, registry)
    dataset = build_dataset(recipe, registry)
    train_state, start_step = _build_train_state(recipe, registry, args, process, dataset, checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)  # a recipe that cannot be trained leaves nothing behind
    with run_lock(args.out) if process.is_main else nullcontext():
        return _run_steps(train_state, start_step, dataset, registry, args, process)


def _run_steps(
    train_state: TrainState,
    start_step: int,
    dataset: Dataset,
    registry: Registry,
    args: TrainArgs,
    process: ProcessInfo,
) -> Path:
    recipe = train_state.model.recipe
    train_step = TrainStep(train_state.model, recipe.training, process, train_state.optimizers)
    distributed.barrier(process)
    if process.is_main:
        delete_old_checkpoints(args.out, recipe.training.keep_latest_k)
        with atomic_file(args.out / "recipe.yaml") as partial:
            partial.write_text(recipe.to_yaml(), encoding="utf-8")
    # only the first process writes: two logs would cut each other's rows
    with (
        MetricLogger(args.out, start_step, recipe.training.steps, args.quiet)
        if process.is_main
        else nullcontext() as log
    ):
        for step, raw_batch in enumerate(
            _make_dataloader(train_state.model, dataset, start_step, process), start=start_step
        ):
            start_time = time.perf_counter()
            metrics = train_step.step(step, raw_batch)
            train_state.ema.update(train_state.model, step)
            step_seconds = time.perf_counter() - start_time
            if log is not None:
                values = {
                    "loss": metrics.loss,
                    "grad_norm": metrics.grad_norm,
                    "step_seconds": step_seconds,
                    **metrics.terms,
                }
                log.log(step + 1, values)
                _save_and_sample(train_state, step + 1, args.out, registry, log)
            distributed.barrier(process) if (step + 1) % recipe.training.checkpoint_interval == 0 else None
    return _export_model(train_state, args.out, registry, process)


def _build_train_state(
    recipe: Recipe, registry: Registry, args: TrainArgs, process: ProcessInfo, dataset: Dataset, checkpoint: Path | None
) -> tuple[TrainState, int]:
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, registry)
    check_data_sizes(model, dataset)
    if checkpoint is None:
        _init_weights(model, dataset, args, process, registry)
    else:
        _restore_weights(model, checkpoint)
    model.to(process.device)
    if hasattr(model.objective, "set_negatives"):
        model.objective.set_negatives(negative_tokens(model, dataset))
    freeze(model, recipe.training.freeze)
    train_state = TrainState(model, EMA(model, recipe.training.ema_decay), build_optimizers(model, recipe.training))
    return train_state, load_checkpoint(train_state, checkpoint) if checkpoint is not None else 0


def negative_tokens(model: Model, dataset: Dataset) -> torch.Tensor:
    """Clean tokens (M, N, D) from all over the data set, for objectives that compare with more than the batch."""
    indices = range(0, len(dataset), -(-len(dataset) // MAX_NEGATIVE_EXAMPLES))
    data = [dataset.get(index, SampleKey(index, index).python_rng())[model.task.data_field] for index in indices]
    return encode_to_tokens(model, data).values


def _restore_weights(model: Model, folder: Path) -> None:
    weights = read_weights(folder / WEIGHTS_FILE)
    mismatch = describe_mismatch(model, weights)
    if mismatch:
        raise CheckpointError(f"{folder} does not fit this recipe: {mismatch}; was the recipe changed since?")
    model.load_state_dict(weights)


def _init_weights(model: Model, dataset: Dataset, args: TrainArgs, process: ProcessInfo, registry: Registry) -> None:
    """A fresh run: weights of other models where asked for, then what parts must learn from the data once."""
    loaded: dict[str, torch.Tensor] = {}
    for folder in args.init:
        copied = _copy_weights(model, folder, registry)
        loaded |= copied
        if process.is_main:
            print(f"began from {len(copied)} tensors of {folder}; {_describe_new_weights(model, loaded)}")
    for field, conditioner in model.conditioners_by_field.items():
        prefix = f"conditioners.{field}."
        if isinstance(conditioner, SupportsFit) and not any(name.startswith(prefix) for name in loaded):
            conditioner.fit(dataset.values(field))


def _copy_weights(model: Model, folder: Path, registry: Registry) -> dict[str, torch.Tensor]:
    """The weights of another model that were put into this one."""
    loaded_dir = open_model_dir(folder, registry)
    weights = {name: read_tensor(tensor) for name, tensor in matching_weights(model, loaded_dir.weights).items()}
    if not weights:
        raise ConfigError(f"--init {folder}: none of its weights fits this recipe by name and shape")
    model.load_state_dict(weights, strict=False)
    return weights


def _describe_new_weights(model: Model, loaded: Mapping[str, torch.Tensor]) -> str:
    new = sorted({name.rsplit(".", 1)[0] for name in model.state_dict() if name not in loaded})
    return f"fresh: {', '.join(new[:4])}{' ...' if len(new) > 4 else ''}" if new else "nothing is fresh"


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Stop the training of named parts (`conditioners.caption`).

    Raises:
        ConfigError: no weight's name begins with one of them.
    """
    model.train()
    for prefix in prefixes:
        parameters = [(name, p) for name, p in model.named_parameters() if name.startswith(prefix + ".")]
        if not parameters:
            raise ConfigError(f"training.freeze names '{prefix}', and no weights are called so")
        for _, parameter in parameters:
            parameter.requires_grad_(False)
        model.get_submodule(prefix).eval()


def _make_dataloader(model: Model, dataset: Dataset, start_step: int, process: ProcessInfo) -> DataLoader[RawBatch]:
    training = model.recipe.training
    if training.global_batch_size % process.world_size:
        raise ConfigError(
            f"training.global_batch_size {training.global_batch_size} cannot be shared by {process.world_size} processes; take a multiple"
        )
    sampler = StepSampler(
        make_sampler(dataset, training.seed),
        start_step,
        training.steps,
        training.global_batch_size,
        (process.rank, process.world_size),
    )
    step_dataset = StepDataset(dataset, model.task.data_field, list(model.conditioners_by_field))
    # batch_size None: a whole step is read at once, see Examples
    return DataLoader(step_dataset, sampler=sampler, batch_size=None, num_workers=training.num_workers)


def _save_and_sample(train_state: TrainState, step: int, out: Path, registry: Registry, logger: MetricLogger) -> None:
    training = train_state.model.recipe.training
    if step % training.checkpoint_interval == 0 or step == training.steps:
        save_checkpoint(train_state, step, out, registry)
        delete_old_checkpoints(out, training.keep_latest_k)
    if training.sample_interval and step % training.sample_interval == 0 and training.sample_requests:
        logger.log_samples(
            step,
            save_sample_grid(
                train_state.model, registry, train_state.ema.state_dict(train_state.model), out / "samples", step
            ),
        )


def _export_model(train_state: TrainState, out: Path, registry: Registry, process: ProcessInfo) -> Path:
    model_dir = out / "model"
    if process.is_main:
        train_state.model.load_state_dict(train_state.ema.state_dict(train_state.model))
        save_model(train_state.model, model_dir, registry)
    distributed.barrier(process)
    return model_dir
