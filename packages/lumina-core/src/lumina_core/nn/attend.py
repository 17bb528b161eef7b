"""Scaled dot-product attention with shared keys (GQA) in named ways that give the same numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "fused", "matmul")
SHORT = 512
"""Keys up to which plain products train faster on a CPU than the fused kernel, whose backward pass is slow there."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, backend: str = "auto") -> Tensor:
    """Softmax attention of q (B, H, N, d) over k, v (B, K, M, d), H a multiple of K -> (B, H, N, d).

    Args:
        mask: (B, 1, 1, M) bool, True where a key is real; every row must have a real key. None: all are.
        backend: `fused` is torch's kernel, `matmul` plain products, `auto` the faster of them for this call.
    """
    if backend == "auto":
        training = torch.is_grad_enabled() and q.requires_grad
        backend = "matmul" if training and q.device.type == "cpu" and k.shape[2] <= SHORT else "fused"
    if backend == "fused":
        shared = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=shared)
    return _by_products(q, k, v, mask, scale)


def _by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    heads, shared = q.shape[1], k.shape[1]
    # query heads that share a key head stand one behind another along N, so that no key is repeated
    grouped = q.unflatten(1, (shared, heads // shared)).flatten(2, 3)
    scores = (grouped * scale) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v
    apart: Tensor = mixed.unflatten(2, (heads // shared, q.shape[2]))
    return apart.flatten(1, 2)
