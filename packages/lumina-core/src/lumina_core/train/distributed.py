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
class Place:
    """Which process this is, among how many, and on which device it computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


def enter(device: str | None = None) -> Place:
    """Join the other processes if torchrun started several (it sets RANK, WORLD_SIZE and LOCAL_RANK)."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device(device) if device else _best_device(int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Place(rank, world, chosen)


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shared(module: nn.Module, place: Place) -> nn.Module:
    """The module with its gradients averaged over all processes. Sharding (FSDP2) would be another answer here."""
    if place.world == 1:
        return module
    devices = [place.device] if place.device.type == "cuda" else None
    # vocabularies and scales are learnt alike in every process, and differ in length from a fresh module's
    with warnings.catch_warnings():
        # newer torch has another name for broadcast_buffers, which the oldest that we take does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def mean(value: Tensor, place: Place) -> Tensor:
    """The mean of a scalar over all processes."""
    if place.world == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / place.world


def wait(place: Place) -> None:
    """Return when every process has come here."""
    if place.world > 1:
        dist.barrier()


def _best_device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
