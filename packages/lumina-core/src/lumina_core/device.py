"""Which number format a machine is fast at: bfloat16 only where its products are computed in hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto`, `float32` or `bfloat16` as a dtype; auto is bfloat16 on GPUs and processors that multiply it natively."""
    if precision == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in `dtype`; norms, softmax, rotation and losses stay float32. Nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # without the instruction the CPU converts number by number: some 70 times slower than float32
    return device.type == "cpu" and any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def supported_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The format itself, or float32 where the device is slow at it: half ones on most CPUs."""
    if dtype == torch.float16 and device.type == "cpu":
        return torch.float32
    return torch.float32 if dtype == torch.bfloat16 and not _has_native_bfloat16(device) else dtype
