"""The attention of a block: over the tokens themselves, and gated over the memory, with one output projection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumina_core.nn.attend import attend
from lumina_core.nn.context_drop import Pooling
from lumina_core.nn.linear import Linear, bare, linear, overwriting
from lumina_core.nn.rotary import Turn, rotate


@dataclass(frozen=True)
class Memory:
    """Keys and values of one block's memory, each (B, K, M, d): computed once a request. mask (B, 1, 1, M) or None.

    `shares` (B, R, N, 1) where it is R memories one behind another: how much each one's answer counts at each token.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None
    shares: Tensor | None = None

    def regions(self) -> Iterator[tuple[Memory, Tensor]]:
        """Each region's memory by itself, with its shares (B, 1, N, 1)."""
        assert self.shares is not None
        count = self.shares.shape[1]
        masks = [None] * count if self.mask is None else self.mask.chunk(count, dim=-1)
        parts = zip(self.keys.chunk(count, dim=2), self.values.chunk(count, dim=2), masks, strict=True)
        for place, (keys, values, mask) in enumerate(parts):
            yield Memory(keys, values, mask), self.shares[:, place, None]


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
        self, width: int, heads: int, kv_heads: int, memory_width: int, qk_norm: bool, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.backend = heads, kv_heads, width // heads, backend
        inner, shared = heads * self.head_width, kv_heads * self.head_width
        self.qkv = Linear(width, inner + 2 * shared, bias=False)
        self.out = Linear(inner, width, bias=False)
        self.q_norm = nn.LayerNorm(inner) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(shared) if qk_norm else nn.Identity()
        if memory_width:
            self.memory_kv = Linear(memory_width, 2 * shared, bias=False)
            self.memory_k_norm = nn.LayerNorm(shared) if qk_norm else nn.Identity()
            self.gate = nn.Parameter(torch.zeros(heads))

    def remember(self, memory: Tensor, real: Tensor | None, shares: Tensor | None = None) -> Memory:
        """Keys and values of a memory (B, M, W'), `real` (B, M) bool or None. A row without a real entry answers 0.

        Args:
            shares: (B, R, N) where it is R memories, see `Condition.shares`.
        """
        keys, values = self.memory_kv(memory).chunk(2, dim=-1)
        keys, values = self._split(self.memory_k_norm(keys)), self._split(values)
        counted = None if shares is None else shares[..., None].to(values.dtype)
        if real is None:
            return Memory(keys, values, None, counted)
        values = values * real[:, None, :, None].to(values.dtype)
        # an all-masked row would be 0/0 in the softmax: let it read its zeros
        rows = real.unflatten(1, (1 if shares is None else shares.shape[1], -1))
        readable = (rows | ~rows.any(dim=2, keepdim=True)).flatten(1)
        return Memory(keys, values, readable[:, None, None], counted)

    def forward(
        self, x: Tensor, by: Turn, mask: Tensor | None, memory: Memory | None, scale: float | Tensor | None = None,
        pooling: Pooling | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width) -> (B, N, width).

        Args:
            mask: (B, 1, 1, N) bool, True for real tokens, or None.
            scale: of the self-attention, (B, 1, 1, 1) for one an item; None: head width ** -0.5. The memory always has
                the latter, as published.
            pooling: keys and values are averaged by it, and its mask and scale take the place of the others; None: each
                token has its own.
        """
        usual = self.head_width**-0.5
        if pooling is None:
            q, k, v = self._projected(x)
            k = self._turned(self.k_norm(k), by)
        else:
            q, k, v = self._pooled(x, pooling)
            mask, scale = pooling.pool.bias, pooling.scale
        q = rotate(self.q_norm(q).unflatten(-1, (self.heads, -1)), by, self._own).transpose(1, 2)
        mixed = attend(q, k, self._split(v), mask, usual if scale is None else scale, self.backend)
        if memory is not None:
            read = self._read(q, memory, usual)
            gate = self.gate.tanh()[:, None, None].to(read.dtype)
            mixed = mixed.addcmul_(read, gate) if overwriting(mixed) else mixed + read * gate
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return answer

    @property
    def _own(self) -> bool:
        """Whether normalised queries are nobody else's."""
        return isinstance(self.q_norm, nn.LayerNorm) and not self.q_norm._forward_hooks

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, side by side."""
        sizes = self._sizes()
        if overwriting(x) and bare(self.qkv):
            # queries that lie by themselves need no copy before they are normalised
            weights = self.qkv.weight.split((sizes[0], sizes[1] + sizes[2]))
            k, v = linear(x, weights[1]).split(sizes[1:], dim=-1)
            return linear(x, weights[0]), k, v
        q, k, v = self.qkv(x).split(sizes, dim=-1)
        return q, k, v

    def _sizes(self) -> tuple[int, int, int]:
        shared = self.kv_heads * self.head_width
        return self.heads * self.head_width, shared, shared

    def _turned(self, k: Tensor, by: Turn) -> Tensor:
        return rotate(k.unflatten(-1, (self.kv_heads, -1)), by).transpose(1, 2)

    def _pooled(self, x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of all tokens, turned keys (B, K, M, d) and values of the windows."""
        sizes, pool = self._sizes(), pooling.pool
        if type(self.qkv) is Linear:
            # an average of values is the value of an average: a window's are projected once
            weights = self.qkv.weight.split((sizes[0] + sizes[1], sizes[2]))
            q, k = linear(x, weights[0]).split(sizes[:2], dim=-1)
            v = linear(pool(x), weights[1])
        else:  # quantised or otherwise wrapped
            q, k, v = self.qkv(x).split(sizes, dim=-1)
            v = pool(v)
        return q, self._turned(pool(self.k_norm(k)), pooling.turned), v

    def _read(self, q: Tensor, memory: Memory, scale: float) -> Tensor:
        if memory.shares is None:
            return attend(q, memory.keys, memory.values, memory.mask, scale, self.backend)
        parts = ((attend(q, m.keys, m.values, m.mask, scale, self.backend), share) for m, share in memory.regions())
        return torch.stack([read * share for read, share in parts]).sum(dim=0)

    def _split(self, x: Tensor) -> Tensor:
        apart: Tensor = x.unflatten(-1, (self.kv_heads, -1))
        return apart.transpose(1, 2)
