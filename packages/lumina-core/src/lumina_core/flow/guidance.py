"""Guidance: two velocities -> one velocity."""

from __future__ import annotations

import torch
from torch import Tensor


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Return uncond + scale (cond - uncond): classifier-free guidance (arXiv 2207.12598).

    With the velocity of a weaker model under the same condition in place of `uncond` it is autoguidance
    (arXiv 2406.02507).

    Args:
        cond: (B, N, D).
        uncond: (B, N, D).
        scale: 1 returns exactly `cond`.
    """
    return cond if scale == 1 else torch.lerp(uncond, cond, scale)


def cfg_rescale(guided: Tensor, cond: Tensor, rescale: float, mask: Tensor | None = None) -> Tensor:
    """Scale a guided velocity towards the standard deviation of the conditional one, per item (arXiv 2305.08891).

    Args:
        guided: (B, N, D).
        cond: (B, N, D).
        rescale: 0 changes nothing, 1 gives it all of the conditional standard deviation.
        mask: (B, N) bool, False for padding; None: no padding.
    """
    if rescale == 0:
        return guided
    std, cond_std = (_masked_std(values, mask) for values in (guided, cond))
    return guided * (rescale * cond_std / std.clamp_min(1e-8) + 1 - rescale)


def _masked_std(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the (B, 1, 1) standard deviation of each item without padding."""
    dims = tuple(range(1, values.ndim))
    if mask is None:
        return values.std(dim=dims, keepdim=True)
    weights = mask[..., None].to(values)
    count = weights.sum(dim=dims, keepdim=True) * values.shape[-1]
    deviation = (values - (values * weights).sum(dim=dims, keepdim=True) / count) * weights
    return (deviation.square().sum(dim=dims, keepdim=True) / (count - 1)).sqrt()
