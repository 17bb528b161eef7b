"""Velocities -> one velocity: what was said, strengthened against having said nothing (or against a weaker model)."""

from __future__ import annotations

import torch
from torch import Tensor


def guided(conditional: Tensor, silent: Tensor, scale: float, only: slice | None = None) -> Tensor:
    """silent + scale (conditional - silent): classifier-free guidance (arXiv 2207.12598).

    With a weaker model's answer to the same words in place of the silent one it is autoguidance (arXiv 2406.02507).

    Args:
        conditional, silent: (B, N, D).
        scale: 1 gives exactly the conditional velocity.
        only: which of the D numbers are guided, the others stay conditional; the published code guides the first three
            channels of four, which stand first among a token's numbers. None: all.
    """
    if scale == 1:
        return conditional
    if only is None:
        return torch.lerp(silent, conditional, scale)
    mixed = conditional.clone()
    mixed[..., only] = torch.lerp(silent[..., only], conditional[..., only], scale)
    return mixed


def rescaled(strengthened: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Brought back towards the spread of what was said alone, item by item: against burnt colours (arXiv 2305.08891).

    Args:
        strengthened, conditional: (B, N, D).
        share: 0 leaves it as it is, 1 gives it all of the conditional velocity's standard deviation.
    """
    if share == 0:
        return strengthened
    dims = tuple(range(1, conditional.ndim))
    spread, wanted = (part.std(dim=dims, keepdim=True) for part in (strengthened, conditional))
    return strengthened * (share * wanted / spread.clamp_min(1e-8) + 1 - share)


def within(time: float, interval: tuple[float, float] | None) -> bool:
    """Whether guidance is at work at a time (arXiv 2404.07724): from the first number to the second, both included."""
    return interval is None or interval[0] <= time <= interval[1]
