"""Scaled dot-product attention with shared keys (GQA) in named ways that give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.nn.linear import overwriting

BACKENDS = ("auto", "fused", "matmul")
SHORT = 512
"""Keys up to which plain products train faster on a CPU than the fused kernel, whose backward pass is slow there."""
SCORES = 2**20
"""Scores of a block of `_by_blocks` for each thread: two megabytes, which stay near it until they are used up."""


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
        if overwriting(q) and q.dtype == k.dtype == torch.bfloat16:
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
    """Plain products over some key heads, or some queries of one, at a time, without gradients.

    Of bfloat16, whose products are twice as quick there, a CPU does this in about two thirds of the fused kernel's
    time. Scores are rounded to bfloat16, as in any attention by plain products.
    """
    items, shared, keys = k.shape[:3]
    # a key head of an item with the query heads that share it, one behind another
    grouped = q.unflatten(1, (shared, -1)).flatten(0, 1)
    # laid out once: products of strided slices would be copied at every block
    across = (k * scale).flatten(0, 1).contiguous().transpose(-1, -2)
    values = v.flatten(0, 1).contiguous()
    hidden = None if mask is None else _hidden(mask, q.dtype).expand(items, shared, 1, keys).flatten(0, 1)
    mixed = torch.empty_like(grouped)
    for heads, rows in _blocks(grouped, keys):
        block = grouped[heads, :, rows]
        scores = block.flatten(1, 2) @ across[heads]
        if hidden is not None:
            scores += hidden[heads]
        mixed[heads, :, rows] = (scores.softmax(dim=-1) @ values[heads]).view_as(block)
    apart: Tensor = mixed.unflatten(0, (items, shared))
    return apart.flatten(1, 2)


def _blocks(grouped: Tensor, keys: int) -> Iterator[tuple[slice, slice]]:
    """Which of the key heads and which of the queries of (B K, group, N, d) make up one block after another."""
    count, group, length = grouped.shape[:3]
    threads, each = torch.get_num_threads(), group * keys
    rows = min(length, max(1, SCORES // each))
    heads = max(threads, threads * SCORES // (each * rows)) if rows == length else threads
    for head in range(0, count, heads):
        for row in range(0, length, rows):
            yield slice(head, head + heads), slice(row, row + rows)


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: nothing where a key is real."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


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
