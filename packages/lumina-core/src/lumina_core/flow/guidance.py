"""Velocities -> one velocity: what was said, strengthened against having said nothing (or against a weaker model)."""

from __future__ import annotations

import torch
from torch import Tensor


def cfg(cond: Tensor, uncond: Tensor, scale: float, channels: slice | None = None) -> Tensor:
    """silent + scale (conditional - silent): classifier-free guidance (arXiv 2207.12598).

    With a weaker model's answer to the same words in place of the silent one it is autoguidance (arXiv 2406.02507).

    Args:
        conditional, silent: (B, N, D).
        scale: 1 gives exactly the conditional velocity.
        only: which of the D numbers are guided, the others stay conditional; the published code guides the first three
            channels of four, which stand first among a token's numbers. None: all.
    """
    if scale == 1:
        return cond
    if channels is None:
        return torch.lerp(uncond, cond, scale)
    result = cond.clone()
    result[..., channels] = torch.lerp(uncond[..., channels], cond[..., channels], scale)
    return result


def cfg_rescale(guided: Tensor, cond: Tensor, rescale: float, mask: Tensor | None = None) -> Tensor:
    """Brought back towards the spread of what was said alone, item by item: against burnt colours (arXiv 2305.08891).

    Args:
        strengthened, conditional: (B, N, D).
        share: 0 leaves it as it is, 1 gives it all of the conditional velocity's standard deviation.
        real: (B, N) bool, False where a token is padding and counts for nothing; None: all are real.
    """
    if rescale == 0:
        return guided
    std, cond_std = (_masked_std(part, mask) for part in (guided, cond))
    return guided * (rescale * cond_std / std.clamp_min(1e-8) + 1 - rescale)


def _masked_std(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, 1, 1): the standard deviation of each item's real numbers."""
    dims = tuple(range(1, values.ndim))
    if mask is None:
        return values.std(dim=dims, keepdim=True)
    weights = mask[..., None].to(values)
    count = weights.sum(dim=dims, keepdim=True) * values.shape[-1]
    deviation = (values - (values * weights).sum(dim=dims, keepdim=True) / count) * weights
    return (deviation.square().sum(dim=dims, keepdim=True) / (count - 1)).sqrt()


def in_interval(t: float, interval: tuple[float, float] | None) -> bool:
    """Whether guidance is at work at a time (arXiv 2404.07724): from the first number to the second, both included."""
    return interval is None or interval[0] <= t <= interval[1]
