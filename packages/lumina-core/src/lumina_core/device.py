"""Devices by name, and number formats that a device computes fast: bfloat16 only with hardware support."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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
