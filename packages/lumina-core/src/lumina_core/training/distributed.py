"""Processes, devices and sharding by torch.distributed (DDP, FSDP2). A single process needs none of it."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lumina_core.device import parse_device
from lumina_core.errors import ConfigError, LuminaError, ReportedError

_T = TypeVar("_T")

STORE_TIMEOUT = 5.0
"""Seconds that a failing process waits for the others."""
WAIT_TIMEOUT = timedelta(days=7)
"""Longest time that a process waits for the first one, which saves and samples."""


@dataclass(frozen=True)
class ProcessInfo:
    """Rank of this process, number of processes, device.

    Attributes:
        wait_group: gloo group with a long timeout, used to wait for the first process; None for a single process.
    """

    rank: int
    world_size: int
    device: torch.device
    wait_group: Any = field(default=None, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the first process: the one that writes files and calls callbacks."""
        return self.rank == 0


def init_distributed(device: str | None = None) -> ProcessInfo:
    """Choose a device, and join the process group if torchrun started several processes.

    torchrun sets RANK, WORLD_SIZE and LOCAL_RANK.

    Args:
        device: "cpu", "cuda", "mps", ...; None for the best one available. "cuda" without an index is the GPU with the
            number LOCAL_RANK.

    Raises:
        ConfigError: the device is unknown or not available, or has an index although there are several processes.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    process_device = _parse_device(device) if device else _default_device()
    if process_device.type == "cuda":
        if process_device.index is not None and world_size > 1:
            raise ConfigError(
                f"device: got {device} in {world_size} processes, expected a device without an index. Use 'cuda': each "
                "process then takes the GPU of its LOCAL_RANK."
            )
        if process_device.index is None:
            process_device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        try:
            torch.cuda.set_device(process_device)
        except (RuntimeError, AssertionError, ValueError) as error:  # no such GPU, or no CUDA in this torch
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"device: got '{process_device}', expected an available one ({reason}). Use cpu."
            ) from error
    if world_size == 1:
        return ProcessInfo(rank, world_size, process_device)
    if not dist.is_initialized():
        _join_group("nccl" if process_device.type == "cuda" else "gloo")
    return ProcessInfo(rank, world_size, process_device, dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))


def _join_group(backend: str) -> None:
    """Join the process group, after a restart by torchrun under names of its own in the store.

    With a static rendezvous (--master-port), torchrun keeps its store, in which the addresses of the processes that
    died still are; gloo would try to connect to them.
    """
    if not is_restarted():
        dist.init_process_group(backend)
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, world_size = next(rendezvous("env://"))
    name = f"restart_{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    prefixed = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world_size)


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: got '{name}', expected cpu, cuda, mps or another device of torch.") from error
    return device if device.type == "cuda" else parse_device(name)


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def new_cpu_group() -> Any:
    """Return a further gloo group of all processes; all of them call this."""
    return dist.new_group(backend="gloo")


def is_restarted() -> bool:
    """Whether torchrun started this process again after one of its group failed (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_joined() -> bool:
    """Whether this process is in a process group."""
    return dist.is_initialized()


def shutdown(wait: bool = True) -> None:
    """Leave the process group.

    Args:
        wait: wait for the other processes first; False after an error, when they may never come. Without waiting, a
            process that is still in a collective may abort at its end.
    """
    if not dist.is_initialized():
        return
    if wait:
        gc.collect()  # modules and checkpoints that hold the group
        dist.barrier()
    dist.destroy_process_group()


def describe_lost_process(error: BaseException) -> str | None:
    """Return a message for an error of a collective whose other process ended; None for other errors."""
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not re.search(r"gloo|nccl|connection|peer|socket", text, re.IGNORECASE):
        return None
    return f"another process ended ({text[:160]}). Resume from what was saved last."


def claim_report(is_lost_process: bool) -> bool:
    """Return whether this process reports the error that ends the training, and leave the process group.

    Of all processes that fail, the first one reports; the others fail because of it, or in the same way.

    Args:
        is_lost_process: whether the error is that another process ended.
    """
    if not dist.is_initialized():
        return True
    rank, world_size = dist.get_rank(), dist.get_world_size()
    try:
        store: Any = dist.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=STORE_TIMEOUT))
        reports = bool(store.add("lumina/failed", 1) == 1)
        shutdown(wait=False)
        # the first process may hold the store: it stays until the others need no answer any more; `set` has none
        if rank:
            store.set(f"lumina/left/{rank}", "1")
            return reports
        others = [f"lumina/left/{other}" for other in range(1, world_size)]
        deadline = time.monotonic() + STORE_TIMEOUT
        while not store.check(others) and time.monotonic() < deadline:
            time.sleep(0.05)
        return reports
    except (RuntimeError, AttributeError, ValueError):  # the store ended with the first process
        with suppress(RuntimeError):
            shutdown(wait=False)
        return is_lost_process or rank == 0


@contextmanager
def joined_processes(device: str | None) -> Iterator[ProcessInfo]:
    """Join the processes that torchrun started for the length of a block; of an error, one process reports.

    Args:
        device: see `init_distributed`.
    """
    try:
        yield init_distributed(device)
    except BaseException as error:
        lost = describe_lost_process(error)
        if not isinstance(error, ReportedError) and not claim_report(lost is not None):
            raise ReportedError("another process reports the error") from error
        if lost is not None:
            raise LuminaError(lost) from error
        raise
    shutdown()


def wrap_ddp(module: nn.Module, process: ProcessInfo, find_unused_parameters: bool) -> nn.Module:
    """Average the gradients of a module over all processes.

    Args:
        module: its forward pass computes the loss.
        process: this process; a single one gets the module itself.
        find_unused_parameters: whether a step may leave trainable parameters without a gradient. Costs a walk over the
            graph per step.
    """
    if process.world_size == 1:
        return module
    devices = [process.device] if process.device.type == "cuda" else None
    with warnings.catch_warnings():
        # newer releases of torch rename broadcast_buffers; the oldest supported release has only this name
        warnings.simplefilter("ignore", FutureWarning)
        # buffers are not broadcast: a vocabulary is longer than in a fresh module, and the same in every process
        return DistributedDataParallel(
            module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
        )


def no_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Skip the averaging of gradients: for all micro-batches of a step but the last.

    A sharded module keeps the whole gradient in each process until then.
    """
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return _without_gradient_sync(module) if is_sharded(module) else nullcontext()


@contextmanager
def _without_gradient_sync(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


@dataclass(frozen=True)
class ShardOptions:
    """How a module is sharded.

    Attributes:
        shard_size: number of processes that share one copy of the weights; the processes hold world_size / shard_size
            copies. None: one copy.
        param_dtype: dtype of gathered weights; gradients are reduced in float32. None: as stored.
    """

    shard_size: int | None = None
    param_dtype: torch.dtype | None = None


def check_shard_size(shard_size: int | None, world_size: int) -> int:
    """Return the number of processes that share one copy of the weights; None stands for those of one machine.

    Raises:
        ConfigError: the processes cannot be divided into groups of this size.
    """
    size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size)) if shard_size is None else shard_size
    if world_size % size:
        raise ConfigError(
            f"training.shard_size: got {size} for {world_size} processes, expected a divisor of {world_size}. Choose "
            "another one, or train with `parallel: fsdp`."
        )
    return size


def shard_module(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    process: ProcessInfo,
    options: ShardOptions = ShardOptions(),
    replicated: Iterable[nn.Parameter] = (),
    block_methods: Sequence[str] = (),
) -> nn.Module:
    """Shard the weights of a module over the processes by FSDP2, in place; names of weights stay as they are.

    Args:
        module: its forward pass computes the loss.
        blocks: submodules that are gathered one at a time; all other weights are gathered for the whole step.
        process: this process.
        options: sizes and dtypes.
        replicated: frozen weights that every process holds as a whole.
        block_methods: methods of blocks that compute with their weights, besides `forward`.

    Raises:
        ConfigError: this release of torch has no FSDP2.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
    except ImportError as error:
        raise ConfigError(
            f"training.parallel: got fsdp or hsdp with torch {torch.__version__}, expected torch 2.7 or later. "
            "Install it, or set `parallel: ddp`."
        ) from error
    size, world_size, device_type = options.shard_size, process.world_size, process.device.type
    shape, names = ((world_size,), ("shard",)) if size is None else ((world_size // size, size), ("replicate", "shard"))
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=names)
    # inputs are not cast: rotary angles and the residual stream stay float32, and autocast casts matrix products
    policy = MixedPrecisionPolicy(options.param_dtype, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
        for name in block_methods:
            register_fsdp_forward_method(block, name)
    fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=set(replicated))
    return module.to(process.device)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard_module` sharded this module."""
    if "torch.distributed.fsdp" not in sys.modules:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor; other tensors as they are."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_rows(tensor: Tensor) -> tuple[int, int]:
    """Return the first row of a sharded tensor that this process holds, and the row behind the last one."""
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]  # of a DTensor
    size, rank, rows = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1), tensor.shape[0]
    step = -(-rows // size)  # as torch.chunk divides
    return min(rank * step, rows), min((rank + 1) * step, rows)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor; all processes call this in the same order."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered(module: Any) -> Iterator[None]:
    """Gather the weights of a sharded module outside of its blocks, for calls of its submodules; without gradients."""
    if not is_sharded(module):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


@torch.no_grad()
def clip_grad_norm(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients so that their global norm is at most `max_norm`; return the norm before.

    Args:
        parameters: all sharded over the same processes, or none.
        max_norm: largest norm.
    """
    sharded = next((p for p in parameters if type(p) is not nn.Parameter), None)
    if sharded is None:
        return nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    grads = [local_tensor(p.grad) for p in parameters if p.grad is not None]
    total = torch.stack(torch._foreach_norm(grads)).square().sum() if grads else torch.zeros(())
    dist.all_reduce(total, group=shard_group(sharded))
    norm = total.sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def shard_group(parameter: Tensor) -> Any:
    """Return the process group over which a sharded parameter is divided."""
    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]  # of a DTensor
    return mesh.get_group(mesh.ndim - 1)


def transform_matrices(matrices: Sequence[Tensor], parameter: Tensor, transform: Any) -> list[Tensor]:
    """Apply a function of whole matrices to sharded ones: each process gathers and transforms its share of them.

    Args:
        matrices: this process's rows of matrices of one shape.
        parameter: a sharded parameter of this shape.
        transform: (K, m, n) -> (K, m, n).

    Returns:
        This process's rows of the results.
    """
    group = shard_group(parameter)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    rows, columns = parameter.shape[0], parameter.shape[1:].numel()
    # torch.chunk, by which FSDP2 divides the rows
    step = -(-rows // size)
    counts = [max(0, min(rows - k * step, step)) for k in range(size)]
    owned = [len(range(k, len(matrices), size)) for k in range(size)]
    out_sizes = [n * counts[rank] * columns for n in owned]
    in_sizes = [owned[rank] * count * columns for count in counts]
    sent = torch.cat([matrices[k].reshape(-1) for owner in range(size) for k in range(owner, len(matrices), size)])
    received = sent.new_empty(sum(in_sizes))
    dist.all_to_all_single(received, sent, in_sizes, out_sizes, group=group)
    parts = [
        part.view(owned[rank], count, columns) for part, count in zip(received.split(in_sizes), counts, strict=True)
    ]
    whole = torch.cat(parts, dim=1)
    whole = transform(whole) if owned[rank] else whole
    back = torch.cat([part.reshape(-1) for part in whole.split(counts, dim=1)])
    results = torch.empty_like(sent)
    dist.all_to_all_single(results, back, out_sizes, in_sizes, group=group)
    by_matrix = results.split([counts[rank] * columns] * len(matrices)) if counts[rank] else [results] * len(matrices)
    order = [k for owner in range(size) for k in range(owner, len(matrices), size)]
    ordered = dict(zip(order, by_matrix, strict=True))
    return [ordered[k].view(counts[rank], columns) for k in range(len(matrices))]


def used_parameters(loss: Tensor, parameters: Sequence[Tensor]) -> list[bool]:
    """Return for each parameter whether a gradient of the loss reaches it, by a walk over the graph."""
    found: set[int] = set()
    seen: set[Any] = set()
    stack: list[Any] = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return [id(parameter) in found for parameter in parameters]


def all_reduce_any(flags: Sequence[bool], process: ProcessInfo) -> list[bool]:
    """Return for each flag whether it is set in any process."""
    value = torch.tensor(flags, dtype=torch.int32, device=process.device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return [bool(flag) for flag in value.tolist()]


def all_reduce_max(value: int, process: ProcessInfo) -> int:
    """Return the largest of the numbers of all processes."""
    total = torch.tensor(value)
    dist.all_reduce(total, dist.ReduceOp.MAX, group=process.wait_group)
    return int(total)


def gather_objects(value: Any, process: ProcessInfo) -> list[Any]:
    """Return the values of all processes in their order, in the first process; elsewhere an empty list."""
    values: list[Any] = [None] * process.world_size if process.is_main else []
    dist.gather_object(value, values if process.is_main else None, 0, group=process.wait_group)
    return values


def broadcast_object(value: Any, process: ProcessInfo) -> Any:
    """Return the first process's value, which is pickled between the processes of this run."""
    if process.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0, group=process.wait_group)
    return values[0]


def gather_results(function: Callable[[], _T], process: ProcessInfo) -> list[_T]:
    """Call a function in all processes; return their values in the first process, elsewhere an empty list.

    Raises:
        LuminaError: that of the first process in which the function raised one; in all processes.
    """
    if process.world_size == 1:
        return [function()]
    result: _T | None = None
    error: LuminaError | None = None
    try:
        result = function()
    except LuminaError as one:  # the others wait for this process
        error = one
    errors: list[LuminaError | None] = [None] * process.world_size
    dist.all_gather_object(errors, error, group=process.wait_group)
    for failure in errors:
        if failure is not None:
            raise failure
    return gather_objects(result, process)


def call_in_main(function: Callable[[], _T], process: ProcessInfo) -> _T:
    """Call a function in the first process, and return its value in all of them; an error is raised in all of them."""
    values = gather_results(lambda: function() if process.is_main else None, process)
    return cast(_T, broadcast_object(values[0] if values else None, process))


def all_reduce_mean(value: Tensor, process: ProcessInfo) -> Tensor:
    """Average a tensor over all processes."""
    if process.world_size == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / process.world_size


def wait_for_main(flag: bool, process: ProcessInfo) -> bool:
    """Wait for the first process, which may save or sample for longer than a collective's timeout; return its flag."""
    if process.world_size == 1:
        return flag
    value = torch.tensor(int(flag))
    dist.broadcast(value, 0, group=process.wait_group)
    return bool(value)
