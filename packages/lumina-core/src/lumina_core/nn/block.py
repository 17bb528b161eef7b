"""One Next-DiT block: attention and feed-forward, each between two norms, scaled before and gated after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.nn.attention import Attention, Memory
from lumina_core.nn.context_drop import Pooling
from lumina_core.nn.linear import Linear, bare, gated, overwriting, quicker
from lumina_core.nn.rotary import Turn


class RMSNorm(nn.Module):
    """Divide by the root mean square (float32), then multiply by the weight in the input's dtype, as published."""

    def __init__(self, width: int, eps: float, weighted: bool = True) -> None:
        super().__init__()
        self.eps, self.width = eps, width
        self.weight = nn.Parameter(torch.ones(width)) if weighted else None

    def forward(self, x: Tensor, by: Tensor | float = 1.0) -> Tensor:
        """(..., width) -> (..., width), times `by`, a number or one that broadcasts to it."""
        if overwriting(x):
            factor, normed = self._factor(x, by), self._normed(x)
            return normed * factor if isinstance(factor, Tensor) and factor.dtype != x.dtype else normed.mul_(factor)
        if x.dtype == torch.float32:
            return F.rms_norm(x, (self.width,), self.weight, self.eps) * by
        normed = F.rms_norm(x.float(), (self.width,), None, self.eps).to(x.dtype)
        return (normed if self.weight is None else normed * self.weight.to(x.dtype)) * by

    def onto(self, x: Tensor, made: Tensor, by: Tensor | float = 1.0) -> Tensor:
        """x + what `forward` answers to `made`; all (..., width)."""
        if self.weight is None or self._forward_hooks or not overwriting(x):
            plain: Tensor = x + self(made, by)
            return plain
        factor, normed = self.weight.to(x.dtype) * by, self._normed(made)
        if not factor.dtype == normed.dtype == x.dtype:
            return x + normed * factor
        torch.addcmul(x, normed, factor, out=normed)
        return normed

    def _normed(self, x: Tensor) -> Tensor:
        """Without the weight, in memory of its own: eager F.rms_norm goes over x five times on a CPU, this twice."""
        wide = x.float()
        rate = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square().div(self.width).add(self.eps).rsqrt()
        return wide * rate if wide is x else wide.mul_(rate).to(x.dtype)

    def _factor(self, x: Tensor, by: Tensor | float) -> Tensor | float:
        # weight and `by` are one vector before they meet x
        return by if self.weight is None else self.weight.to(x.dtype) * by


class FeedForward(nn.Module):
    """SwiGLU: out(silu(gate x) * (up x)); gate and up are one matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, 2 * hidden, bias=False)
        self.out = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        if bare(self.up) and quicker(x, self.up.weight):
            gate, up = self.up.weight.chunk(2)
            inner = gated(x, gate, up)
        else:
            opened, raised = self.up(x).chunk(2, dim=-1)
            inner = F.silu(opened) * raised
        answer: Tensor = self.out(inner)
        return answer


def hidden_width(width: int, multiple_of: int, multiplier: float | None) -> int:
    """The published width of the feed-forward: 8/3 of the width (times a multiplier), rounded up to a multiple."""
    hidden = int(2 * (4 * width) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


class Branches(nn.Module):
    """What every block is made of: two branches, a norm of the memory of its own, and a modulation that begins at zero.

    Args:
        attention, feed: the two branches.
        memory_norm: of the memory, before attention reads it; None: no memory.
        modulation_width: of the vector that modulates the branches; 0: none.
        numbers: how many the modulation gives.
    """

    def __init__(
        self,
        attention: Attention,
        feed: FeedForward,
        memory_norm: RMSNorm | None,
        modulation_width: int,
        numbers: int,
    ) -> None:
        super().__init__()
        self.attention, self.feed, self.memory_norm = attention, feed, memory_norm
        self.modulation = Linear(modulation_width, numbers) if modulation_width else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def remember(self, memory: Tensor, real: Tensor | None, shares: Tensor | None = None) -> Memory:
        """This block's keys and values of a memory (B, M, W')."""
        assert self.memory_norm is not None  # the backbone asks only where a memory was configured
        return self.attention.remember(self.memory_norm(memory), real, shares)


class Block(Branches):
    """x + tanh(gate) * norm2(branch(norm1(x) * (1 + scale))), attention then feed-forward (Lumina-Next, section 2.1).

    Args:
        attention, feed: the two branches.
        modulation_width: of the vector that gives scales and gates; 0: neither (recognition).
        memory_width: of the memory, which passes a norm of this block's own before attention; 0: none.
        weighted: whether the norms before the branches have weights (the published ImageNet models have none).
    """

    def __init__(
        self, attention: Attention, feed: FeedForward, width: int, memory_width: int, modulation_width: int,
        eps: float, weighted: bool,
    ) -> None:  # fmt: skip
        memory_norm = RMSNorm(memory_width, eps) if memory_width else None
        super().__init__(attention, feed, memory_norm, modulation_width, 4 * width)
        self.attention_norm1, self.feed_norm1 = RMSNorm(width, eps, weighted), RMSNorm(width, eps, weighted)
        self.attention_norm2, self.feed_norm2 = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(
        self, x: Tensor, turned: Turn, mask: Tensor | None, memory: Memory | None, modulation: Tensor | None,
        scale: float | Tensor | None = None, pooling: Pooling | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width), modulation (B, A) already through SiLU, or None -> (B, N, width)."""
        scale_a, gate_a, scale_f, gate_f = self._modulated(modulation)
        read = self.attention(self.attention_norm1(x, scale_a), turned, mask, memory, scale, pooling)
        x = self.attention_norm2.onto(x, read, gate_a)
        return self.feed_norm2.onto(x, self.feed(self.feed_norm1(x, scale_f)), gate_f)

    def entering(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """What attention is handed of x (B, N, width), for who wants to know how much it has changed."""
        entering: Tensor = self.attention_norm1(x, self._modulated(modulation)[0])
        return entering

    def _modulated(self, modulation: Tensor | None) -> Sequence[Tensor | float]:
        if self.modulation is None or modulation is None:
            return (1.0, 1.0, 1.0, 1.0)
        scale_a, gate_a, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(4, dim=-1)
        return (1 + scale_a, gate_a.tanh(), 1 + scale_f, gate_f.tanh())
