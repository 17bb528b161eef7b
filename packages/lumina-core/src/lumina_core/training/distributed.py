"""Processes and devices: the only module that uses torch.distributed. A single process needs none of it."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lumina_core.errors import ConfigError

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
        ConfigError: the device is unknown, or has an index although there are several processes.
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
        torch.cuda.set_device(process_device)
    if world_size == 1:
        return ProcessInfo(rank, world_size, process_device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if process_device.type == "cuda" else "gloo")
    return ProcessInfo(rank, world_size, process_device, dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))


def _parse_device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: got '{name}', expected cpu, cuda, mps or another device of torch.") from error


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
    """Skip the averaging of gradients: for all micro-batches of a step but the last."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


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
