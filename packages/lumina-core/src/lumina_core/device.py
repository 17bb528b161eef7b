"""Devices by name, their free memory, and the number formats that they compute fast."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from lumina_core.errors import ConfigError


def parse_device(device: str | torch.device, setting: str = "device") -> torch.device:
    """Return an available device by its name.

    Args:
        device: cpu, cuda, cuda:1, mps or another device of torch.
        setting: name of the setting, for messages.

    Raises:
        ConfigError: torch does not know the device, this machine does not have it, or it cannot compute.
    """
    try:
        parsed = torch.zeros((), device=device).device
        if parsed.type == "meta" or (parsed.type in ("cpu", "mps") and torch.device(device).index not in (None, 0)):
            raise RuntimeError(f"there is no {device}")
    except Exception as error:  # torch asserts if it was built without the device; other backends are not importable
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"{setting}: got '{device}', expected an available one ({reason}). Use cpu.") from error
    return parsed


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of `auto`, `float32` or `bfloat16`; auto is bfloat16 on devices with native support."""
    if precision == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in `dtype`; norms, softmax, rotary embedding and losses stay float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def supported_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return `dtype`, or float32 if the device is slow at it: half precision on most CPUs."""
    if dtype == torch.float16 and device.type == "cpu":
        return torch.float32
    return torch.float32 if dtype == torch.bfloat16 and not _has_native_bfloat16(device) else dtype


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # without the instruction the CPU converts number by number: some 70 times slower than float32
    return device.type == "cpu" and any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def available_memory(device: torch.device, cgroup_root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that are free on a device, within the limits of its control group; None: unknown."""
    if device.type == "cuda":
        # memory that torch has reserved and does not use is free as well
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [limit for limit in (_system_memory(), _cgroup_memory(cgroup_root)) if limit is not None]
    return min(limits) if limits else None


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _cgroup_memory(root: Path) -> int | None:
    """Return what the memory controller (version 2, else 1) leaves, page cache counted as free; None: no limit."""
    names = (("memory.max", "memory.current", "memory.stat"),
             ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"))  # fmt: skip
    for limit_name, usage_name, stat_name in names:
        try:
            limit = int((root / limit_name).read_text(encoding="ascii"))
            usage = int((root / usage_name).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (root / stat_name).read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):  # no such file, or `max`: no limit
            continue
        cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        return max(0, limit - usage + cache)
    return None
