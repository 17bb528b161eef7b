"""Memory of a request for many points."""

from __future__ import annotations

from lumina_core.errors import ConfigError

BYTES_PER_POINT = 3000
"""Rough need per point besides the weights: states of the solver and hidden states of width 192, twice for guidance."""
FIXED_BYTES = 400 * 2**20
"""Rough need of the weights and of one chunk of points."""


def needed_bytes(count: int) -> int:
    """Return roughly how many bytes a cloud of `count` points needs."""
    return FIXED_BYTES + BYTES_PER_POINT * count


def check_memory(count: int, available: int | None = None) -> None:
    """Raise ConfigError if a cloud needs more memory than there is.

    Args:
        count: number of points.
        available: bytes; None: the available memory of the machine, or no check where it is unknown.
    """
    import torch

    from lumina_core import device

    free = device.available_memory(torch.device("cpu")) if available is None else available
    if free is not None and needed_bytes(count) > free:
        raise ConfigError(
            f"count: got {count} points, which need about {needed_bytes(count) / 2**30:.1f} GB of memory, expected at "
            f"most {free / 2**30:.1f} GB. Request fewer points."
        )
