"""Muon: momentum turned into the nearest orthogonal matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers: every direction of the update gets the same length.

    torch.optim.Muon exists since torch 2.9, iterates in bfloat16 always (very slow on processors without it) and treats
    a fused projection as one matrix; here the iteration runs in float32 on the CPU, and matrices of one shape run
    together.

    Args:
        parameters: matrices (out, in).
        rate: learning rate; an update has a root mean square of about 0.2 rate sqrt(max(out, in)) / sqrt(min) entries,
            scaled as in Moonlight (arXiv 2502.16982) so that AdamW's weight decay suits.
        momentum: Nesterov momentum.
        weight_decay: decoupled, times the rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], rate: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; matrices of one shape share one batched iteration."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for same in by_shape.values():
                self._move(same, group["lr"], group["momentum"], group["weight_decay"])

    def _move(self, same: list[Tensor], rate: float, momentum: float, weight_decay: float) -> None:
        updates = torch.stack([self._looked_ahead(parameter, momentum) for parameter in same])
        turned = orthogonal(updates)
        scale = rate * 0.2 * max(turned.shape[-2:]) ** 0.5
        for parameter, update in zip(same, turned, strict=True):
            parameter.mul_(1 - rate * weight_decay).add_(update, alpha=-scale)

    def _looked_ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None  # step() asked
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of matrices (B, m, n) near 1 by the quintic Newton-Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    near: Tensor = x.mT if tall else x
    return near.to(matrices.dtype)
