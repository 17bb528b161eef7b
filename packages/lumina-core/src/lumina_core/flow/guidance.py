"""Velocities -> one velocity: what was said, strengthened against having said nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def guided(conditional: Tensor, silent: Tensor, scale: float, only: slice | None = None) -> Tensor:
    """silent + scale (conditional - silent): classifier-free guidance (arXiv 2207.12598).

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
