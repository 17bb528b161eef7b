"""The attention of a block: over the tokens themselves, and gated over the memory, with one output projection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.models.context_drop import PooledAttention
from lumina_core.models.layers import Linear, can_run_inplace, has_no_hooks, linear
from lumina_core.models.rope import RotaryEmbedding, apply_rotary_emb

BACKENDS = ("auto", "fused", "matmul")
MATMUL_MAX_KEYS = 512
"""Keys up to which plain products train faster on a CPU than the fused kernel, whose backward pass is slow there."""
BLOCK_SCORES = 2**20
"""Scores of a block of `_by_blocks` for each thread: two megabytes, which stay near it until they are used up."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | Tensor, backend: str = "auto") -> Tensor:
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
        backend = "matmul" if training and q.device.type == "cpu" and k.shape[2] <= MATMUL_MAX_KEYS else "fused"
        if can_run_inplace(q) and q.dtype == k.dtype == torch.bfloat16:
            return _blockwise_attention(q, k, v, mask, scale)
    if backend == "fused":
        enable_gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    return _matmul_attention(q, k, v, mask, scale)


def _matmul_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    # query heads that share a key head stand one behind another along N, so that no key is repeated
    grouped = q.unflatten(1, (num_kv_heads, num_heads // num_kv_heads)).flatten(2, 3)
    scores = (grouped * scale) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    attn_out = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v
    unfolded: Tensor = attn_out.unflatten(2, (num_heads // num_kv_heads, q.shape[2]))
    return unfolded.flatten(1, 2)


def _blockwise_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Plain products over some key heads, or some queries of one, at a time, without gradients.

    Of bfloat16, whose products are twice as quick there, a CPU does this in about two thirds of the fused kernel's
    time. Scores are rounded to bfloat16, as in any attention by plain products.
    """
    batch, num_kv_heads, num_keys = k.shape[:3]
    # a key head of an item with the query heads that share it, one behind another
    grouped = q.unflatten(1, (num_kv_heads, -1)).flatten(0, 1)
    # laid out once: products of strided slices would be copied at every block
    k_transposed = (k * scale).flatten(0, 1).contiguous().transpose(-1, -2)
    values = v.flatten(0, 1).contiguous()
    bias = (
        None if mask is None else _additive_mask(mask, q.dtype).expand(batch, num_kv_heads, 1, num_keys).flatten(0, 1)
    )
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
    """Which of the key heads and which of the queries of (B K, group, N, d) make up one block after another."""
    count, group, length = grouped.shape[:3]
    threads, scores_per_query = torch.get_num_threads(), group * num_keys
    rows = min(length, max(1, BLOCK_SCORES // scores_per_query))
    heads = max(threads, threads * BLOCK_SCORES // (scores_per_query * rows)) if rows == length else threads
    for head in range(0, count, heads):
        for row in range(0, length, rows):
            yield slice(head, head + heads), slice(row, row + rows)


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: nothing where a key is real."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def proportional_attn_scale(length: float | Tensor, train_length: int, head_dim: int) -> float | Tensor:
    """Proportional attention: the scale sqrt(log_trained(length) / head width), as published.

    Where `length` keys are those of training it is the usual 1 / sqrt(head width); more keys sharpen the softmax.

    Args:
        length: keys that an item attends to, one number or a tensor of them.
        trained: keys in training, at least 2; (side / 16)^2 for the published models.
    """
    if isinstance(length, Tensor):
        return (length.float().log() / (math.log(train_length) * head_dim)).sqrt()
    return math.sqrt(math.log(length) / (math.log(train_length) * head_dim))


@dataclass(frozen=True)
class CrossAttentionKV:
    """Keys and values of one block's memory, each (B, K, M, d): computed once a request. mask (B, 1, 1, M) or None.

    `shares` (B, R, N, 1) where it is R memories one behind another: how much each one's answer counts at each token.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None
    region_weights: Tensor | None = None

    def regions(self) -> Iterator[tuple[CrossAttentionKV, Tensor]]:
        """Each region's memory by itself, with its shares (B, 1, N, 1)."""
        assert self.region_weights is not None
        count = self.region_weights.shape[1]
        masks = [None] * count if self.mask is None else self.mask.chunk(count, dim=-1)
        parts = zip(self.keys.chunk(count, dim=2), self.values.chunk(count, dim=2), masks, strict=True)
        for index, (keys, values, mask) in enumerate(parts):
            yield CrossAttentionKV(keys, values, mask), self.region_weights[:, index, None]


class Attention(nn.Module):
    """Self-attention with rotary positions, plus cross-attention that reads the memory with the same queries.

    As published (lumina_next_t2i_mini/models/nextdit.py, class Attention): queries and keys are normalised over all
    heads together before the rotation; memory keys are normalised but not turned; the memory's answer passes tanh of a
    gate a head and is added before the output projection, which both share. Our projections of q, k, v are one matrix.

    Args:
        width: of the tokens.
        heads, kv_heads: query heads, and key and value heads that they share.
        memory_width: W' of the memory; 0: no cross-attention.
        qk_norm: LayerNorm on queries and keys.
        backend: see `attend`.
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
        self.num_heads, self.num_kv_heads, self.head_dim, self.attn_backend = (
            num_heads,
            num_kv_heads,
            hidden_size // num_heads,
            attn_backend,
        )
        q_dim, kv_dim = num_heads * self.head_dim, num_kv_heads * self.head_dim
        self.qkv = Linear(hidden_size, q_dim + 2 * kv_dim, bias=False)
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
        """Keys and values of a memory (B, M, W'), `real` (B, M) bool or None. A row without a real entry answers 0.

        Args:
            shares: (B, R, N) where it is R memories, see `Condition.shares`.
        """
        keys, values = self.context_kv(context).chunk(2, dim=-1)
        keys, values = self._split_heads(self.context_k_norm(keys)), self._split_heads(values)
        weights = None if region_weights is None else region_weights[..., None].to(values.dtype)
        if mask is None:
            return CrossAttentionKV(keys, values, None, weights)
        values = values * mask[:, None, :, None].to(values.dtype)
        # an all-masked row would be 0/0 in the softmax: let it read its zeros
        rows = mask.unflatten(1, (1 if region_weights is None else region_weights.shape[1], -1))
        key_mask = (rows | ~rows.any(dim=2, keepdim=True)).flatten(1)
        return CrossAttentionKV(keys, values, key_mask[:, None, None], weights)

    def forward(
        self, x: Tensor, rope: RotaryEmbedding, mask: Tensor | None, cross_kv: CrossAttentionKV | None, scale: float | Tensor | None = None,
        pooled_attention: PooledAttention | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width) -> (B, N, width).

        Args:
            mask: (B, 1, 1, N) bool, True for real tokens, or None.
            scale: of the self-attention, (B, 1, 1, 1) for one an item; None: head width ** -0.5. The memory always has
                the latter, as published.
            pooling: keys and values are averaged by it, and its mask and scale take the place of the others; None: each
                token has its own.
        """
        default_scale = self.head_dim**-0.5
        if pooled_attention is None:
            q, k, v = self._project_qkv(x)
            k = self._rotate(self.k_norm(k), rope)
        else:
            q, k, v = self._project_pooled(x, pooled_attention)
            mask, scale = pooled_attention.pool.bias, pooled_attention.scale
        q = apply_rotary_emb(self.q_norm(q).unflatten(-1, (self.num_heads, -1)), rope, self._can_overwrite_q).transpose(
            1, 2
        )
        attn_out = sdpa(q, k, self._split_heads(v), mask, default_scale if scale is None else scale, self.attn_backend)
        if cross_kv is not None:
            cross_out = self._cross_attention(q, cross_kv, default_scale)
            gate = self.gate.tanh()[:, None, None].to(cross_out.dtype)
            attn_out = attn_out.addcmul_(cross_out, gate) if can_run_inplace(attn_out) else attn_out + cross_out * gate
        output: Tensor = self.out(attn_out.transpose(1, 2).flatten(2))
        return output

    @property
    def _can_overwrite_q(self) -> bool:
        """Whether normalised queries are nobody else's."""
        return isinstance(self.q_norm, nn.LayerNorm) and not self.q_norm._forward_hooks

    def _project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, side by side."""
        dims = self._qkv_dims()
        if can_run_inplace(x) and has_no_hooks(self.qkv):
            # queries that lie by themselves need no copy before they are normalised
            weights = self.qkv.weight.split((dims[0], dims[1] + dims[2]))
            k, v = linear(x, weights[1]).split(dims[1:], dim=-1)
            return linear(x, weights[0]), k, v
        q, k, v = self.qkv(x).split(dims, dim=-1)
        return q, k, v

    def _qkv_dims(self) -> tuple[int, int, int]:
        kv_dim = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, kv_dim, kv_dim

    def _rotate(self, k: Tensor, rope: RotaryEmbedding) -> Tensor:
        return apply_rotary_emb(k.unflatten(-1, (self.num_kv_heads, -1)), rope).transpose(1, 2)

    def _project_pooled(self, x: Tensor, pooled_attention: PooledAttention) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of all tokens, turned keys (B, K, M, d) and values of the windows."""
        dims, pool = self._qkv_dims(), pooled_attention.pool
        if type(self.qkv) is Linear:
            # an average of values is the value of an average: a window's are projected once
            weights = self.qkv.weight.split((dims[0] + dims[1], dims[2]))
            q, k = linear(x, weights[0]).split(dims[:2], dim=-1)
            v = linear(pool(x), weights[1])
        else:  # quantised or otherwise wrapped
            q, k, v = self.qkv(x).split(dims, dim=-1)
            v = pool(v)
        return q, self._rotate(pool(self.k_norm(k)), pooled_attention.rope), v

    def _cross_attention(self, q: Tensor, cross_kv: CrossAttentionKV, scale: float) -> Tensor:
        if cross_kv.region_weights is None:
            return sdpa(q, cross_kv.keys, cross_kv.values, cross_kv.mask, scale, self.attn_backend)
        outputs = (
            (sdpa(q, m.keys, m.values, m.mask, scale, self.attn_backend), share) for m, share in cross_kv.regions()
        )
        return torch.stack([read * share for read, share in outputs]).sum(dim=0)

    def _split_heads(self, x: Tensor) -> Tensor:
        unfolded: Tensor = x.unflatten(-1, (self.num_kv_heads, -1))
        return unfolded.transpose(1, 2)
