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


def rescaled(strengthened: Tensor, conditional: Tensor, share: float, real: Tensor | None = None) -> Tensor:
    """Brought back towards the spread of what was said alone, item by item: against burnt colours (arXiv 2305.08891).

    Args:
        strengthened, conditional: (B, N, D).
        share: 0 leaves it as it is, 1 gives it all of the conditional velocity's standard deviation.
        real: (B, N) bool, False where a token is padding and counts for nothing; None: all are real.
    """
    if share == 0:
        return strengthened
    spread, wanted = (_spread(part, real) for part in (strengthened, conditional))
    return strengthened * (share * wanted / spread.clamp_min(1e-8) + 1 - share)


def _spread(part: Tensor, real: Tensor | None) -> Tensor:
    """(B, 1, 1): the standard deviation of each item's real numbers."""
    dims = tuple(range(1, part.ndim))
    if real is None:
        return part.std(dim=dims, keepdim=True)
    counted = real[..., None].to(part)
    count = counted.sum(dim=dims, keepdim=True) * part.shape[-1]
    apart = (part - (part * counted).sum(dim=dims, keepdim=True) / count) * counted
    return (apart.square().sum(dim=dims, keepdim=True) / (count - 1)).sqrt()


def within(time: float, interval: tuple[float, float] | None) -> bool:
    """Whether guidance is at work at a time (arXiv 2404.07724): from the first number to the second, both included."""
    return interval is None or interval[0] <= time <= interval[1]
