"""Memory of a training: what a device holds with each kind of parallelism, from a simulated step without values.

The model is built and run forward and backward on fake tensors (torch's FakeTensorMode), which have shapes and no
values: a model of any size takes no memory. Every storage is counted from its allocation to its release, so that
activations, copies of weights in bfloat16 and temporary tensors are those of the real step without torch.compile.
"""

from __future__ import annotations

import re
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lumina_core.device import autocast, resolve_dtype
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.model import Model, build_model, empty_tokens
from lumina_core.models.dit import DiTBackbone
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import GenerationTask
from lumina_core.recipe import Recipe, TrainingConfig
from lumina_core.training.optim import Muon, build_optimizers
from lumina_core.training.trainer import freeze
from lumina_core.types import Condition, Size

CONTEXT_LENGTH = 256
"""Entries of the context of an item, where the recipe does not say how many a conditioner gives."""
MAX_ITEMS = 2**14
"""Most items of a micro-batch that a plan considers."""
ENOUGH_ITEMS = 8
"""Items of a micro-batch from which on larger ones are hardly faster per item."""
RESERVED_BYTES = 3 * 2**30
"""Memory of a GPU that torch cannot use for tensors: CUDA context, NCCL buffers, fragments of the allocator."""


class AllocationTracker(TorchDispatchMode):
    """Counter of the bytes of all storages that are allocated within it.

    Attributes:
        live: bytes that are allocated now.
        peak: the most bytes that were allocated at a time.
        gradients: bytes of gradients of weights, of the module that `watch` got.
        peak_without_gradients: the most bytes besides those.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.gradients = self.peak_without_gradients = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its new storages."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def watch(self, module: nn.Module) -> None:
        """Leave out the weights and buffers of a module, and count their gradients apart from the rest."""
        for tensor in [*module.parameters(), *module.buffers()]:
            self._known.add(tensor.untyped_storage()._cdata)

        def add(parameter: Tensor) -> None:
            self.gradients += parameter.nbytes

        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(add)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        self.peak_without_gradients = max(self.peak_without_gradients, self.live - self.gradients)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a forward and backward pass, besides weights, averages and optimizer states.

    Attributes:
        activations: what the forward pass keeps for the backward pass.
        peak: the most at a time, with gradients of all weights.
        peak_without_gradients: the most at a time besides the gradients.
        optimizer_peak: temporary tensors of the optimizer's step.
    """

    activations: int
    peak: int
    peak_without_gradients: int
    optimizer_peak: int = 0


@dataclass(frozen=True)
class ModelMemory:
    """Bytes of a model's parts, counted from its weights.

    Attributes:
        weights: all weights and buffers.
        gradients: gradients of the trained weights.
        optimizer: states of the optimizers.
        ema: averaged weights.
        frozen: those of `weights` without a gradient.
        root: weights outside of the blocks, which a sharded training gathers for the whole step.
        block: weights of the largest block.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    frozen: int
    root: int
    block: int


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that one device needs in a training, by kind; `total` is their sum.

    Attributes:
        weights: weights that the device holds, gathered ones included.
        gradients, optimizer, ema: as in `ModelMemory`, this device's part.
        activations: the rest of the peak: activations and temporary tensors.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations


def model_memory(model: Model, training: TrainingConfig) -> ModelMemory:
    """Count the bytes of a model's weights, gradients, optimizer states and averages; fake tensors suffice."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    gradients = sum(p.nbytes for p in trained)
    blocks = [sum(p.nbytes for p in block.parameters()) for block in _blocks(model)]
    muon = 0
    if training.optimizer == "muon":
        optimizers = build_optimizers(model, training).optimizers
        muon = sum(
            p.nbytes for one in optimizers if isinstance(one, Muon) for g in one.param_groups for p in g["params"]
        )
    optimizer = 2 * (gradients - muon) + muon
    in_blocks = {id(p) for block in _blocks(model) for p in block.parameters()}
    root = sum(p.nbytes for p in trained if id(p) not in in_blocks)
    frozen = weights - gradients
    return ModelMemory(weights, gradients, optimizer, gradients, frozen, root, max(blocks, default=0))


def device_memory(
    model: ModelMemory, step: StepMemory, training: TrainingConfig, devices: int, dtype: torch.dtype
) -> DeviceMemory:
    """Add up what one device needs.

    Args:
        model: result of `model_memory`.
        step: result of `simulate_step` for the items of a micro-batch on one device.
        training: its `parallel`, `shard_size`, `shard_frozen` and accumulation are used.
        devices: number of processes, one per device.
        dtype: dtype of matrix products, and of gathered weights.
    """
    accumulates = training.gradient_accumulation_steps > 1
    if training.parallel == "ddp" or devices == 1:
        # DDP has buckets as large as the gradients
        gradients = model.gradients * (2 if devices > 1 else 1)
        # with accumulation, gradients of the last micro-batch are there throughout the next one
        peak = step.peak_without_gradients + model.gradients if accumulates else step.peak
        activations = max(peak - model.gradients, step.optimizer_peak, 0)
        return DeviceMemory(model.weights, gradients, model.optimizer, model.ema, activations)
    shards = min(training.shard_size or devices, devices) if training.parallel == "hsdp" else devices
    scale = dtype.itemsize / 4
    gathered = int((model.root + 2 * model.block) * scale)  # a block, and the next one that is gathered ahead
    frozen = model.frozen // shards + model.frozen if training.shard_frozen else model.frozen
    # whole gradients of two blocks are reduced while the next is computed; with accumulation, those of all blocks stay
    whole = model.gradients if accumulates else int((model.root + 2 * model.block) * scale)
    # the simulation casts weights to bfloat16, and gathered ones already are
    casts = int((model.weights - model.frozen) * scale) if dtype != torch.float32 else 0
    return DeviceMemory(
        (model.weights - model.frozen) // shards + frozen + gathered,
        model.gradients // shards + whole,
        model.optimizer // shards,
        model.ema // shards,
        max(step.peak_without_gradients - casts, step.optimizer_peak // shards, 0),
    )


def simulate_step(
    recipe: Recipe,
    registry: Registry,
    items: int,
    size: Size | None = None,
    checkpointing: bool | None = None,
    context_length: int = CONTEXT_LENGTH,
    dtype: torch.dtype | None = None,
) -> tuple[ModelMemory, StepMemory]:
    """Run a forward and backward pass of a recipe's model on fake tensors.

    Frozen encoders and autoencoders run before the step, item by item or from a cache, and are not simulated.

    Args:
        recipe: its model and `training` are used, and no data set.
        registry: where components are found.
        items: B, items of a micro-batch.
        size: size of an item's data; None: that of a request without options.
        checkpointing: recompute blocks in the backward pass; None: as the recipe says.
        context_length: M, entries of the context of an item.
        dtype: dtype of matrix products; None: that of the recipe on this machine's CPU.

    Raises:
        LuminaError: the model cannot be run without values.
    """
    training, tracker = recipe.training, AllocationTracker()
    dtype = resolve_dtype(training.mixed_precision, torch.device("cpu")) if dtype is None else dtype
    if checkpointing is not None and recipe.backbone is not None:
        options = {**recipe.backbone.model_dump(), "gradient_checkpointing": checkpointing}
        recipe = recipe.model_copy(update={"backbone": type(recipe.backbone)(**options)})
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = build_model(recipe, registry)
            freeze(model, training.freeze)
            memory = model_memory(model, training)
            inputs = _fake_inputs(model, items, size, context_length)
            tracker.watch(model)
            with tracker:
                activations = _forward_backward(model, inputs, tracker, dtype)
                peak, peak_without_gradients = tracker.peak, tracker.peak_without_gradients
                optimizer_peak = _muon_peak(model, training, tracker)
    except LuminaError:
        raise
    except Exception as error:
        raise LuminaError(
            f"the model of the recipe cannot be simulated without values ({' '.join(str(error).split())[:200]})"
        ) from error
    return memory, StepMemory(activations, peak, peak_without_gradients, optimizer_peak)


def _forward_backward(model: Model, inputs: Any, tracker: AllocationTracker, dtype: torch.dtype) -> int:
    tokens, t, condition = inputs
    with autocast(dtype, torch.device("cpu")):
        prediction = model.predict(tokens, t, condition)
        loss = (prediction.float() - tokens.values.mean()).square().mean()
    activations = tracker.live
    del prediction
    loss.backward()
    return activations


@dataclass(frozen=True)
class ParallelPlan:
    """Memory of one way to train on some devices.

    Attributes:
        parallel: ddp, fsdp or hsdp.
        checkpointing: whether blocks are recomputed in the backward pass.
        one_item: what a device needs with a micro-batch of one item.
        items: most items of a micro-batch on a device; 0: not even one fits.
        total: bytes of a device with so many items, or with one.
    """

    parallel: str
    checkpointing: bool
    one_item: DeviceMemory
    items: int
    total: int


def plan_devices(
    recipe: Recipe, registry: Registry, devices: int, device_bytes: int, size: Size | None = None
) -> tuple[ModelMemory, list[ParallelPlan]]:
    """Compare ways to train a recipe on some devices, without gradient accumulation.

    The step is simulated for one and for three items; activations grow linearly with the items.

    Args:
        recipe: its model and `training`; matrix products are bfloat16 unless `mixed_precision` is float32.
        registry: where components are found.
        devices: number of devices; of more than 8, groups of 8 share a copy of the weights with hsdp.
        device_bytes: memory of a device, of which RESERVED_BYTES (at most a tenth) are left out.
        size: size of an item's data; None: that of a request without options.

    Returns:
        The model's bytes, and the ways, those without recomputation first.

    Raises:
        LuminaError: the model cannot be run without values.
    """
    dtype = torch.float32 if recipe.training.mixed_precision == "float32" else torch.bfloat16
    available = device_bytes - min(RESERVED_BYTES, device_bytes // 10)
    kinds: list[tuple[str, int | None]] = [("ddp", None)]
    # of several machines, those that share a copy exchange weights within one of them
    kinds += [("hsdp", recipe.training.shard_size or 8)] if devices > 8 else []
    kinds += [("fsdp", None)] if devices > 1 else []
    plans: list[ParallelPlan] = []
    for checkpointing in (False, True):
        (model, one), (_, three) = (
            simulate_step(recipe, registry, items, size, checkpointing, dtype=dtype) for items in (1, 3)
        )
        for parallel, shard_size in kinds:
            changes = {"parallel": parallel, "shard_size": shard_size, "gradient_accumulation_steps": 1}
            training = recipe.training.model_copy(update=changes)

            def needed(items: int, training: TrainingConfig = training) -> DeviceMemory:
                return device_memory(model, _step_of(items, one, three), training, devices, dtype)  # noqa: B023

            items = bisect_right(range(1, MAX_ITEMS), available, key=lambda count: needed(count).total)
            plans.append(ParallelPlan(parallel, checkpointing, needed(1), items, needed(max(items, 1)).total))
    return model, plans


def _step_of(items: int, one: StepMemory, three: StepMemory) -> StepMemory:
    """Return the memory of a step with some items, from those with one and with three."""

    def line(name: str) -> int:
        first, third = getattr(one, name), getattr(three, name)
        return int(first + (third - first) * (items - 1) / 2)

    without_gradients = line("peak_without_gradients")
    return StepMemory(line("activations"), max(one.peak, without_gradients), without_gradients, one.optimizer_peak)


def recommended_plan(plans: Sequence[ParallelPlan], items: int) -> ParallelPlan | None:
    """Return the first way whose devices hold enough items, or else the one with the most; None: nothing fits.

    A micro-batch of ENOUGH_ITEMS keeps a GPU busy; gradients accumulate over several of them faster than blocks are
    recomputed.

    Args:
        plans: ways, the preferred ones first.
        items: items of a step on one device.
    """
    fitting = [plan for plan in plans if plan.items]
    largest = max(fitting, key=lambda one: one.items, default=None)
    return next((plan for plan in fitting if plan.items >= min(items, ENOUGH_ITEMS)), largest)


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 80GB, 24GiB or 512MB; GB is 10^9, GiB is 2^30.

    Raises:
        ConfigError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)B", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"memory: got '{text}', expected a number and a unit, such as 80GB or 24GiB.")
    unit = match[2].lower()
    exponent = "kmgt".index(unit[0]) + 1
    return int(float(match[1]) * (2 ** (10 * exponent) if unit.endswith("i") else 1000**exponent))


def _muon_peak(model: Model, training: TrainingConfig, tracker: AllocationTracker) -> int:
    """Return the bytes of temporary tensors of Muon's step; AdamW's fused step has none."""
    if training.optimizer != "muon":
        return 0
    muon = [one for one in build_optimizers(model, training).optimizers if isinstance(one, Muon)]
    tracker.peak = tracker.live
    for optimizer in muon:
        optimizer.step()
    return tracker.peak - tracker.live


def _fake_inputs(model: Model, items: int, size: Size | None, context_length: int) -> tuple[Any, Tensor, Condition]:
    """Return noisy tokens, times and a condition of the widths that the conditioners declare."""
    if size is None:
        if not isinstance(model.task, GenerationTask):
            raise LuminaError(f"task {model.recipe.task.type}: got no size, expected one. Name it.")
        size = model.task.size(model.task.Request.model_construct())  # without a prompt or a label
    tokens = empty_tokens(model, size, items)
    tokens = tokens.with_values(torch.randn(tokens.values.shape))
    conditioners = model.conditioners_by_field.values()
    context_dim = next((c.cross_attention_dim for c in conditioners if c.cross_attention_dim), 0)
    pooled_dim = sum(c.pooled_dim for c in conditioners)
    # trained conditioners: their weights are counted, and their outputs need a gradient
    context = torch.randn(items, context_length, context_dim).requires_grad_() if context_dim else None
    pooled = torch.randn(items, pooled_dim).requires_grad_() if pooled_dim else None
    return tokens, torch.rand(items), Condition(context=context, pooled=pooled)


def _blocks(model: Model) -> list[nn.Module]:
    return list(model.backbone.blocks) if isinstance(model.backbone, DiTBackbone) else []
