"""Scaled dot-product attention with shared keys (GQA) in named ways that give the same numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.nn.linear import overwriting

BACKENDS = ("auto", "fused", "matmul")
SHORT = 512
"""Keys up to which plain products train faster on a CPU than the fused kernel, whose backward pass is slow there."""
ROWS = 512
"""Rows of a block of `_by_blocks`: its scores stay near the processor."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | Tensor, backend: str = "auto"
) -> Tensor:
    """Softmax attention of q (B, H, N, d) over k, v (B, K, M, d), H a multiple of K -> (B, H, N, d).

    Args:
        mask: (B, 1, 1, M) bool, True where a key is real, or float, added to its scores; every row must have a real
            key. None: all are.
        scale: of the scores, one for all or (B, 1, 1, 1), one an item.
        backend: `fused` is torch's kernel, `matmul` plain products, `auto` the faster of them for this call.
    """
    if isinstance(scale, Tensor):
        q, scale = q * scale.to(q.dtype), 1.0
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    if backend == "auto":
        training = torch.is_grad_enabled() and q.requires_grad
        backend = "matmul" if training and q.device.type == "cpu" and k.shape[2] <= SHORT else "fused"
        if overwriting(q) and q.dtype == k.dtype == torch.bfloat16 and q.shape[1] > k.shape[1]:
            return _by_blocks(q, k, v, mask, scale)
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
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    mixed = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v
    apart: Tensor = mixed.unflatten(2, (heads // shared, q.shape[2]))
    return apart.flatten(1, 2)


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Plain products over some queries at a time, without gradients.

    Of bfloat16, whose products are twice as quick there, a CPU does this in two thirds of the fused kernel's time where
    several query heads share their keys. Scores are rounded to bfloat16, as in any attention by plain products.
    """
    heads, shared, length = q.shape[1], k.shape[1], q.shape[2]
    step = max(1, ROWS * shared // heads)
    grouped, keys = q.unflatten(1, (shared, heads // shared)), (k * scale).transpose(-1, -2)
    # tokens before heads, as what follows wants them
    mixed = q.new_empty(q.shape[0], length, heads, v.shape[3])
    apart = mixed.transpose(1, 2).unflatten(1, (shared, heads // shared))
    for start in range(0, length, step):
        block = grouped[:, :, :, start : start + step]
        scores = block.flatten(2, 3) @ keys
        if mask is not None:
            scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores.add_(mask)
        read = scores.softmax(dim=-1) @ v
        apart[:, :, :, start : start + step] = read.unflatten(2, (heads // shared, -1))
    return mixed.transpose(1, 2)


def proportional(length: float | Tensor, trained: int, head_width: int) -> float | Tensor:
    """Proportional attention: the scale sqrt(log_trained(length) / head width), as published.

    Where `length` keys are those of training it is the usual 1 / sqrt(head width); more keys sharpen the softmax.

    Args:
        length: keys that an item attends to, one number or a tensor of them.
        trained: keys in training, at least 2; (side / 16)^2 for the published models.
    """
    if isinstance(length, Tensor):
        return (length.float().log() / (math.log(trained) * head_width)).sqrt()
    return math.sqrt(math.log(length) / (math.log(trained) * head_width))
