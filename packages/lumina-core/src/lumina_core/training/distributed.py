"""Processes and devices: the only file that knows torch.distributed. One process needs none; torchrun starts many."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class ProcessInfo:
    """Which process this is, among how many, and on which device it computes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


def init_distributed(device: str | None = None) -> ProcessInfo:
    """Join the other processes if torchrun started several (it sets RANK, WORLD_SIZE and LOCAL_RANK)."""
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    process_device = torch.device(device) if device else _default_device(int(os.environ.get("LOCAL_RANK", "0")))
    if process_device.type == "cuda":
        torch.cuda.set_device(process_device)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if process_device.type == "cuda" else "gloo")
    return ProcessInfo(rank, world_size, process_device)


def shutdown() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap_ddp(module: nn.Module, process: ProcessInfo) -> nn.Module:
    """The module with its gradients averaged over all processes. Sharding (FSDP2) would be another answer here."""
    if process.world_size == 1:
        return module
    devices = [process.device] if process.device.type == "cuda" else None
    # vocabularies and scales are learnt alike in every process, and differ in length from a fresh module's
    with warnings.catch_warnings():
        # newer torch has another name for broadcast_buffers, which the oldest that we take does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def all_reduce_mean(value: Tensor, process: ProcessInfo) -> Tensor:
    """The mean of a scalar over all processes."""
    if process.world_size == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / process.world_size


def barrier(process: ProcessInfo) -> None:
    """Return when every process has come here."""
    if process.world_size > 1:
        dist.barrier()


def _default_device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
