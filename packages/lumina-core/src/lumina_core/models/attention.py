"""Attention of a block: self-attention and gated cross-attention with one output projection."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.errors import ShapeError
from lumina_core.models import cpu_kernels
from lumina_core.models.layers import Linear, split_linear
from lumina_core.protocols import AttentionTransform

if TYPE_CHECKING:
    from lumina_core.models.context_drop import PooledAttention

BACKENDS = ("auto", "fused", "matmul")
MATMUL_MAX_KEYS = 512
"""Keys up to which plain products train faster on a CPU than the fused kernel, whose backward pass is slow there."""


@dataclass(frozen=True)
class Segments:
    """Sequences packed one after another along N of a batch of one: attention stays within each, without a mask.

    Attributes:
        lengths: tokens of each sequence, at least 1; tokens behind the last sequence are padding and get zeros.
    """

    lengths: tuple[int, ...]

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (length, count) of neighboring sequences of one length, which are computed together."""
        for length, run in itertools.groupby(self.lengths):
            yield length, len(list(run))

    def expand(self, values: Tensor, num_tokens: int) -> Tensor:
        """Repeat one value per sequence (S, ...) for its tokens, (num_tokens, ...); padding gets zeros."""
        lengths = torch.tensor(self.lengths, device=values.device)
        tokens = values.repeat_interleave(lengths, dim=0, output_size=sum(self.lengths))
        return torch.cat([tokens, tokens.new_zeros(num_tokens - len(tokens), *tokens.shape[1:])])


AttentionMask = Tensor | Segments | None
"""Which keys a query sees: a mask as `sdpa` takes it, packed sequences, or None for all."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: float | Tensor, backend: str = "auto") -> Tensor:
    """Compute scaled dot-product attention, with key heads that several query heads may share.

    Args:
        q: (B, H, N, d).
        k, v: (B, K, M, d), H a multiple of K.
        mask: (B, 1, 1, M) bool, True for real keys, or float, added to the scores; None: all keys are real. Every row
            needs a real key. `Segments`: B is 1, and each of the packed sequences sees itself alone.
        scale: of the scores, a number or (B, 1, 1, 1).
        backend: `fused` is torch's kernel, `matmul` plain products, `auto` the faster one.

    Returns:
        (B, H, N, d).
    """
    if isinstance(scale, Tensor):
        q, scale = q * scale.to(q.dtype), 1.0
    if isinstance(mask, Segments):
        return _segmented_attention(q, k, v, mask, scale, backend)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    if backend == "auto":
        if cpu_kernels.is_active(q) and q.dtype == k.dtype == torch.bfloat16:
            return cpu_kernels.blockwise_attention(q, k, v, mask, scale)
        training = torch.is_grad_enabled() and q.requires_grad
        backend = "matmul" if training and q.device.type == "cpu" and k.shape[2] <= MATMUL_MAX_KEYS else "fused"
    if backend == "matmul":
        return _matmul_attention(q, k, v, mask, scale)
    enable_gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)


def _segmented_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, backend: str) -> Tensor:
    """Compute exact attention within each packed sequence; no mask over all tokens ever exists."""
    # (N, heads, d): the memory order of the projections
    q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16) and _has_varlen():
        output = _varlen_attention(q, k, v, segments, scale)
    else:
        outputs, start = [], 0
        for length, count in segments.runs():
            rows = slice(start, start + length * count)
            run_q, run_k, run_v = (part[rows].unflatten(0, (count, length)).transpose(1, 2) for part in (q, k, v))
            outputs.append(sdpa(run_q, run_k, run_v, None, scale, backend).transpose(1, 2).flatten(0, 1))
            start += length * count
        output = torch.cat(outputs)
    if len(output) < len(q):
        output = torch.cat([output, output.new_zeros(len(q) - len(output), *output.shape[1:])])
    return output.transpose(0, 1)[None]


def _has_varlen() -> bool:
    """Return whether this torch has attention over packed sequences (2.10 and later)."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def _varlen_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Call torch's kernel for packed sequences on (N, heads, d)."""
    from torch.nn.attention.varlen import varlen_attn

    count, longest = sum(segments.lengths), max(segments.lengths)
    repeats = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(repeats, dim=1) if repeats > 1 else part for part in (k, v))
    ends = torch.tensor([0, *itertools.accumulate(segments.lengths)], dtype=torch.int32, device=q.device)
    # the kernel scales by head_dim ** -0.5
    q = q * (scale * q.shape[-1] ** 0.5)
    output = varlen_attn(q[:count], k[:count], v[:count], ends, ends, longest, longest)
    assert isinstance(output, Tensor)  # without auxiliary outputs
    return output


def _matmul_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    # query heads that share a key head are concatenated along N, so that no key is repeated
    grouped = q.unflatten(1, (num_kv_heads, num_heads // num_kv_heads)).flatten(2, 3)
    scores = (grouped * scale) @ k.transpose(-1, -2)
    scores = scores.float()
    if mask is not None:
        # the smallest finite number instead of -inf, whose differences are NaN in a softmax that a compiler takes apart
        lowest = torch.finfo(torch.float32).min
        is_bool = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, lowest) if is_bool else (scores + mask).clamp_min(lowest)
    attn_out = scores.softmax(dim=-1).to(v.dtype) @ v
    unfolded: Tensor = attn_out.unflatten(2, (num_heads // num_kv_heads, q.shape[2]))
    return unfolded.flatten(1, 2)


def proportional_attn_scale(length: float | Tensor, train_length: int, head_dim: int) -> float | Tensor:
    """Compute the scale of proportional attention, sqrt(log(length) / log(train_length) / head_dim), as published.

    With as many keys as in training it is the usual 1 / sqrt(head_dim); with more, attention is sharper.

    Args:
        length: keys that an item attends to, a number or a tensor.
        train_length: keys in training, at least 2; (side / 16)^2 for the published models.
        head_dim: channels of a head.
    """
    if isinstance(length, Tensor):
        return (length.float().log() / (math.log(train_length) * head_dim)).sqrt()
    return math.sqrt(math.log(length) / (math.log(train_length) * head_dim))


@dataclass(frozen=True)
class CrossAttentionKV:
    """Keys and values of the context for one block, computed once a request.

    Attributes:
        keys, values: (B, K, M, d).
        mask: (B, 1, 1, M) bool, or None if all entries are real.
        region_weights: (B, R, N, 1) if the context is that of R regions, concatenated along M: the weight of each
            region's output at each token. None: one region.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None
    region_weights: Tensor | None = None

    def regions(self) -> Iterator[tuple[CrossAttentionKV, Tensor]]:
        """Yield each region's keys and values with its weights (B, 1, N, 1)."""
        assert self.region_weights is not None
        count = self.region_weights.shape[1]
        masks = [None] * count if self.mask is None else self.mask.chunk(count, dim=-1)
        chunks = zip(self.keys.chunk(count, dim=2), self.values.chunk(count, dim=2), masks, strict=True)
        for index, (keys, values, mask) in enumerate(chunks):
            yield CrossAttentionKV(keys, values, mask), self.region_weights[:, index, None]


@dataclass(frozen=True)
class ContextInput:
    """The context itself: blocks project it to their own keys and values in their forward pass, as in training.

    Attributes:
        context: (B, M, C).
        mask: (B, M) bool, or None if all entries are real.
        region_weights: see `CrossAttentionKV`, before projection (B, R, N).
    """

    context: Tensor
    mask: Tensor | None
    region_weights: Tensor | None = None


class Attention(nn.Module):
    """Self-attention with encoded positions, plus cross-attention with the same queries.

    As published (lumina_next_t2i_mini/models/nextdit.py, class Attention): queries and keys are normalized over all
    heads together before the rotation; context keys are normalized but not rotated; the output of the cross-attention
    is multiplied by tanh of a gate per head and added before the output projection. Here q, k, v have one projection.

    Args:
        hidden_size: C, width of the tokens.
        num_heads: query heads.
        num_kv_heads: key heads, each shared by num_heads / num_kv_heads query heads.
        cross_attention_dim: width of the context; 0: no cross-attention.
        qk_norm: LayerNorm on queries and keys.
        attn_backend: see `sdpa`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        cross_attention_dim: int,
        qk_norm: bool,
        attn_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim, self.attn_backend = hidden_size // num_heads, attn_backend
        q_dim, kv_dim = num_heads * self.head_dim, num_kv_heads * self.head_dim
        self.qkv_dims = (q_dim, kv_dim, kv_dim)
        self.qkv = Linear(hidden_size, sum(self.qkv_dims), bias=False)
        self.out = Linear(q_dim, hidden_size, bias=False)
        self.q_norm = nn.LayerNorm(q_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(kv_dim) if qk_norm else nn.Identity()
        if cross_attention_dim:
            self.context_kv = Linear(cross_attention_dim, 2 * kv_dim, bias=False)
            self.context_k_norm = nn.LayerNorm(kv_dim) if qk_norm else nn.Identity()
            self.gate = nn.Parameter(torch.zeros(num_heads))

    def project_kv(
        self, context: Tensor, mask: Tensor | None, region_weights: Tensor | None = None
    ) -> CrossAttentionKV:
        """Compute keys and values of a context. An item without a real entry gets the output 0.

        Args:
            context: (B, M, cross_attention_dim).
            mask: (B, M) bool, True for real entries; None: all.
            region_weights: (B, R, N) for the context of R regions, see `Condition.region_weights`.
        """
        keys, values = self.context_kv(context).chunk(2, dim=-1)
        keys, values = (
            part.unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2) for part in (self.context_k_norm(keys), values)
        )
        weights = None if region_weights is None else region_weights[..., None].to(values.dtype)
        if mask is None:
            return CrossAttentionKV(keys, values, None, weights)
        values = values * mask[:, None, :, None].to(values.dtype)
        # the softmax of an all-masked row would be 0/0: such a row attends to its zero values instead
        rows = mask.unflatten(1, (1 if region_weights is None else region_weights.shape[1], -1))
        key_mask = (rows | ~rows.any(dim=2, keepdim=True)).flatten(1)
        return CrossAttentionKV(keys, values, key_mask[:, None, None], weights)

    def forward(
        self,
        x: Tensor,
        encoding: AttentionTransform,
        mask: AttentionMask,
        cross_kv: CrossAttentionKV | None,
        scale: float | Tensor | None = None,
        pooled_attention: PooledAttention | None = None,
    ) -> Tensor:
        """Map x (B, N, C) to (B, N, C).

        Args:
            x: normalized and modulated tokens.
            encoding: position encoding of the tokens.
            mask: (B, 1, 1, N) bool, True for real tokens, or None; `Segments` of packed sequences.
            cross_kv: keys and values of the context; None: no cross-attention.
            scale: of the self-attention's scores, a number or (B, 1, 1, 1); None: head_dim ** -0.5, which the
                cross-attention always has, as published.
            pooled_attention: if not None, keys and values are averaged over windows of tokens; its mask and scale
                replace those above.
        """
        default_scale = self.head_dim**-0.5
        if pooled_attention is None:
            q, k, v = split_linear(self.qkv, x, self.qkv_dims)
            k, key_encoding = self.k_norm(k), encoding
        else:
            q, k, v = self._project_pooled(x, pooled_attention)
            mask, scale, key_encoding = pooled_attention.pool.bias, pooled_attention.scale, pooled_attention.encoding
        normed_q = self.q_norm(q).unflatten(-1, (self.num_heads, -1))
        q = encoding.query(normed_q, self._owns_queries)
        cross_q = None if cross_kv is None else encoding.cross_query(normed_q, q).transpose(1, 2)
        k = key_encoding.key(k.unflatten(-1, (self.num_kv_heads, -1)))
        v = key_encoding.value(v.unflatten(-1, (self.num_kv_heads, -1)))
        scale = default_scale if scale is None else scale
        if encoding.query_groups > 1:
            attn_out = self._grouped_attention(q, k, v, mask, scale, encoding.query_groups)
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            attn_out = sdpa(q, k, v, mask, scale, self.attn_backend).transpose(1, 2)
        attn_out = encoding.output(attn_out).transpose(1, 2)
        if cross_kv is not None and cross_q is not None:
            cross_out = self._cross_attention(cross_q, cross_kv, default_scale)
            gate = self.gate.tanh()[:, None, None].to(cross_out.dtype)
            if cpu_kernels.is_active(attn_out):
                attn_out = attn_out.addcmul_(cross_out, gate)
            else:
                attn_out = attn_out + cross_out * gate
        output: Tensor = self.out(attn_out.transpose(1, 2).flatten(2))
        return output

    def _grouped_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | Segments | None, scale: float | Tensor, groups: int
    ) -> Tensor:
        """Attend with other keys for each run of queries: q, v (B, N, H, d) and k (B, groups, N, H, d) -> as q."""
        if isinstance(mask, Segments):
            raise ShapeError("position_encoding: got packed sequences, expected a batch, for keys that differ by query")
        batch = len(q)

        def repeat(x: Tensor) -> Tensor:
            repeated: Tensor = x[:, None].expand(-1, groups, *x.shape[1:]).flatten(0, 1)
            return repeated

        rows = q.unflatten(1, (groups, -1)).flatten(0, 1).transpose(1, 2)
        keys, values = k.flatten(0, 1).transpose(1, 2), repeat(v).transpose(1, 2)
        mask = mask if mask is None or len(mask) != batch else repeat(mask)
        scale = repeat(scale) if isinstance(scale, Tensor) and len(scale) == batch else scale
        attn_out = sdpa(rows, keys, values, mask, scale, self.attn_backend)
        joined: Tensor = attn_out.transpose(1, 2).unflatten(0, (batch, groups)).flatten(1, 2)
        return joined

    @property
    def _owns_queries(self) -> bool:
        """Whether the normalized queries are not used elsewhere: not kept by a forward hook."""
        return cpu_kernels.is_plain(self.q_norm, nn.LayerNorm)

    def _project_pooled(self, x: Tensor, pooled_attention: PooledAttention) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, N, H d), and k, v (B, M, K d) of windows."""
        pool, dims = pooled_attention.pool, self.qkv_dims
        if isinstance(self.qkv, Linear) and cpu_kernels.is_plain(self.qkv, Linear):
            # values are linear in x: averages are projected instead of all tokens
            qk_weight, v_weight = self.qkv.weight.split((dims[0] + dims[1], dims[2]))
            q, k = cpu_kernels.linear(x, qk_weight).split(dims[:2], dim=-1)
            v = cpu_kernels.linear(pool(x), v_weight)
        else:
            q, k, v = self.qkv(x).split(dims, dim=-1)
            v = pool(v)
        return q, pool(self.k_norm(k)), v

    def _cross_attention(self, q: Tensor, cross_kv: CrossAttentionKV, scale: float) -> Tensor:
        if cross_kv.region_weights is None:
            return sdpa(q, cross_kv.keys, cross_kv.values, cross_kv.mask, scale, self.attn_backend)
        outputs = [
            sdpa(q, region.keys, region.values, region.mask, scale, self.attn_backend) * weight
            for region, weight in cross_kv.regions()
        ]
        return torch.stack(outputs).sum(dim=0)
