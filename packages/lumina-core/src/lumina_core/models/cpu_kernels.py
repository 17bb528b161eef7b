"""Faster CPU implementations of a few operations, behind one switch.

The layers call this module where `is_active` allows it: on the CPU, without gradients, outside torch.compile. Results
equal those of the plain torch operations up to rounding. Set `enabled = False` to run plain torch everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

enabled = True
"""The switch: False turns every function of this module off."""

ONEDNN_DTYPES = (torch.float32, torch.bfloat16)
PLAIN_TENSORS = (Tensor, nn.Parameter)
BLOCK_SCORES = 2**20
"""Attention scores per thread in one block of `blockwise_attention`: 2 MiB in bfloat16, which fit the cache."""


def is_active(x: Tensor) -> bool:
    """Return whether the kernels may be used for x: enabled, on the CPU, no gradients, not being compiled."""
    return enabled and x.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def is_plain(module: nn.Module, expected_type: type[nn.Module]) -> bool:
    """Return whether using the weights of a module directly is the same as calling it.

    False for subclasses, which wrappers (LoRA) and parametrizations create, for tensor subclasses as weights
    (quantization, DTensor), and for modules with forward hooks or forward pre-hooks.
    """
    hooks = torch.nn.modules.module
    return (
        type(module) is expected_type
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (hooks._global_forward_hooks or hooks._global_forward_pre_hooks)
        and all(weight is None or type(weight) in PLAIN_TENSORS for weight in module._parameters.values())
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x (..., in) times weight (out, in) transposed, plus bias, by oneDNN where it applies.

    For float32, torch calls MKL, which leaves a tenth of an AMD processor's speed unused.
    """
    if not onednn_applies(x, weight):
        return F.linear(x, weight, bias)
    output: Tensor = _onednn_linear()(x, weight, bias, "none", [], "")
    return output


def split_linear(x: Tensor, weight: Tensor, dims: Sequence[int]) -> tuple[Tensor, ...]:
    """Compute `linear(x, weight)` split into `dims`; the first output is contiguous, so that its norm needs no copy."""
    first, rest = weight.split((dims[0], sum(dims[1:])))
    return linear(x, first), *linear(x, rest).split(list(dims[1:]), dim=-1)


def swiglu(x: Tensor, weight: Tensor) -> Tensor:
    """Compute silu(gate x) * (up x); weight (2 * ffn_dim, in) holds gate, then up."""
    if not onednn_applies(x, weight):
        gate_out, up_out = F.linear(x, weight).chunk(2, dim=-1)
        return F.silu(gate_out) * up_out
    gate, up = weight.chunk(2)
    gate_out = _onednn_linear()(x, gate, None, "swish", [], "")
    output: Tensor = _onednn_linear().binary(x, gate_out, up, None, "mul")
    return output


def onednn_applies(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN can multiply x (..., in) by weight (out, in)."""
    return (
        is_active(x)
        and x.dtype == weight.dtype
        and x.dtype in ONEDNN_DTYPES
        and not torch.is_autocast_enabled("cpu")
        and type(weight) in PLAIN_TENSORS
        and type(x) is Tensor
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _onednn_linear() -> Any:
    # the operator that torch.compile itself uses for a linear layer of a frozen model
    return torch.ops.mkldnn._linear_pointwise


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, scale: Tensor | float) -> Tensor:
    """Compute the RMS norm of x (..., C) times weight and scale in two passes; eager F.rms_norm takes five."""
    normed = _normalize(x, eps)
    combined = scale if weight is None else weight.to(x.dtype) * scale
    if isinstance(combined, Tensor) and combined.dtype != x.dtype:
        return normed * combined
    return normed.mul_(combined)


def add_rms_norm(x: Tensor, branch: Tensor, weight: Tensor, eps: float, scale: Tensor | float) -> Tensor:
    """Compute x + rms_norm(branch), all (..., C), without a tensor for the sum of its own."""
    combined, normed = weight.to(x.dtype) * scale, _normalize(branch, eps)
    if not combined.dtype == normed.dtype == x.dtype:
        return x + normed * combined
    torch.addcmul(x, normed, combined, out=normed)
    return normed


def _normalize(x: Tensor, eps: float) -> Tensor:
    x_float = x.float()
    rstd = torch.linalg.vector_norm(x_float, dim=-1, keepdim=True).square().div(x.shape[-1]).add(eps).rsqrt()
    return x_float * rstd if x_float is x else x_float.mul_(rstd).to(x.dtype)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, cis: Tensor | None, overwrite: bool) -> Tensor:
    """Rotate adjacent channel pairs of x (B, N, heads, head_dim) as complex numbers.

    Args:
        x: any float dtype; the product is computed in float32.
        cos, sin: (B or 1, N, heads or 1, head_dim / 2) float32.
        cis: cos + i sin, used where gradients are off; None: computed here.
        overwrite: write the result into x where its dtype and layout allow it.
    """
    x_float = x.float().contiguous()
    pairs = torch.view_as_complex(x_float.unflatten(-1, (-1, 2)))
    factor = torch.complex(cos, sin) if cis is None else cis
    in_place = is_active(x) and (overwrite or x_float is not x)
    rotated = pairs.mul_(factor) if in_place else pairs * factor
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


def rotate_pairs_compiled(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute what `rotate_pairs` does, in operations that torch.compile turns into vector instructions.

    Neighbours change places by a product with a permutation matrix, which is exact. Strided reads of every second
    channel would keep the compiler from vector instructions, and took a fifth of a training step.
    """
    head_dim = x.shape[-1]
    swap = torch.eye(head_dim, dtype=x.dtype, device=x.device).unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    pair_cos = cos.repeat_interleave(2, dim=-1)
    pair_sin = torch.stack((-sin, sin), dim=-1).flatten(-2)
    with torch.autocast("cpu", enabled=False):  # in bfloat16 the product would round
        swapped = (x @ swap).float()
    rotated: Tensor = x.float() * pair_cos + swapped * pair_sin
    return rotated.to(x.dtype)


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Compute softmax attention in bfloat16, in blocks of scores that fit the cache.

    A CPU multiplies bfloat16 twice as fast as float32 in plain products, but not in the fused kernel: this takes about
    two thirds of its time. Scores are rounded to bfloat16, as in any attention by plain products.

    Args:
        q: (B, H, N, d).
        k, v: (B, K, M, d), H a multiple of K.
        mask: (B, 1, 1, M) bool, True for real keys, or float, added to the scores; None: all keys are real.
        scale: of the scores.

    Returns:
        (B, H, N, d).
    """
    batch, num_kv_heads, num_keys = k.shape[:3]
    # one row per item and key head, with the query heads that share it as an inner axis
    grouped = q.unflatten(1, (num_kv_heads, -1)).flatten(0, 1)
    # contiguous once: products would copy strided slices in every block
    k_transposed = (k * scale).flatten(0, 1).contiguous().transpose(-1, -2)
    values = v.flatten(0, 1).contiguous()
    bias = None
    if mask is not None:
        bias = _additive_mask(mask, q.dtype).expand(batch, num_kv_heads, 1, num_keys).flatten(0, 1)
    attn_out = torch.empty_like(grouped)
    for heads, rows in _block_slices(grouped, num_keys):
        block = grouped[heads, :, rows]
        scores = block.flatten(1, 2) @ k_transposed[heads]
        if bias is not None:
            scores += bias[heads]
        attn_out[heads, :, rows] = (scores.softmax(dim=-1) @ values[heads]).view_as(block)
    unfolded: Tensor = attn_out.unflatten(0, (batch, num_kv_heads))
    return unfolded.flatten(1, 2)


def _block_slices(grouped: Tensor, num_keys: int) -> Iterator[tuple[slice, slice]]:
    """Yield (key heads, queries) of each block of grouped (B K, group, N, d)."""
    count, group, length = grouped.shape[:3]
    threads, scores_per_query = torch.get_num_threads(), group * num_keys
    rows = min(length, max(1, BLOCK_SCORES // scores_per_query))
    heads = max(threads, threads * BLOCK_SCORES // (scores_per_query * rows)) if rows == length else threads
    for head in range(0, count, heads):
        for row in range(0, length, rows):
            yield slice(head, head + heads), slice(row, row + rows)


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into 0 for real keys and -inf for others; a float mask is returned unchanged."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)
