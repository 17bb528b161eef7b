"""Flag-DiT, the backbone of Lumina-T2X that Next-DiT replaced: the paper's baseline, and the released sound models'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.nn.attention import Attention, Memory
from lumina_core.nn.block import Branches, FeedForward, RMSNorm
from lumina_core.nn.context_drop import Pooling
from lumina_core.nn.rotary import Turn, frequencies, turn
from lumina_core.nn.trunk import Sizes, Trunk, branches


class FlagBlock(Branches):
    """x + gate * branch(norm(x) * (1 + scale) + shift), attention then feed-forward (lumina_music).

    No norm stands behind a branch and no tanh bounds a gate: that is what makes it less stable than Next-DiT's.

    Args:
        attention, feed: the two branches.
        modulation_width: of the vector that gives shifts, scales and gates; 0: none.
        memory_width: of the memory, which passes a norm of this block's own before attention; 0: none.
    """

    def __init__(
        self, attention: Attention, feed: FeedForward, width: int, memory_width: int, modulation_width: int, eps: float
    ) -> None:
        memory_norm = RMSNorm(memory_width, eps) if memory_width else None
        super().__init__(attention, feed, memory_norm, modulation_width, 6 * width)
        self.attention_norm, self.feed_norm = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(
        self, x: Tensor, turned: Turn, mask: Tensor | None, memory: Memory | None, modulation: Tensor | None,
        scale: float | Tensor | None = None, pooling: Pooling | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width), modulation (B, A) already through SiLU, or None -> (B, N, width)."""
        if self.modulation is None or modulation is None:
            x = x + self.attention(self.attention_norm(x), turned, mask, memory, scale, pooling)
            fed: Tensor = self.feed(self.feed_norm(x))
            return x + fed
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(6, dim=-1)
        moved = self.attention_norm(x, 1 + scale_a) + shift_a
        x = x + gate_a * self.attention(moved, turned, mask, memory, scale, pooling)
        fed = self.feed(self.feed_norm(x, 1 + scale_f) + shift_f)
        answer: Tensor = x + gate_f * fed
        return answer

    def entering(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """What attention is handed of x (B, N, width), for who wants to know how much it has changed."""
        normed: Tensor = self.attention_norm(x)
        if self.modulation is None or modulation is None:
            return normed
        shift, scale = self.modulation(modulation)[:, None].chunk(6, dim=-1)[:2]
        entering: Tensor = normed * (1 + scale) + shift
        return entering


class FlagDiT(Trunk):
    """As published in lumina_music/models/diffusion/flag_large_dit.py (FlagDiT), over tokens; rotary on one axis.

    Its head is `core.velocity` with `shift: true`. The published sound model takes times of 0 to 999, 1000 times ours.
    """

    class Config(Sizes):
        """Sizes, and what counts as a token's place."""

        place: Literal["index", "time"] = Field(
            "index", description="index: running number of the token, as published; time: axis 0 of its position"
        )

    config: Config

    def __init__(self, config: Config) -> None:
        modulation_width = config.width if config.timed else 0  # published: not capped at 1024 as Next-DiT's is
        super().__init__(config, modulation_width, lambda: _block(config, modulation_width))
        if config.width // config.heads % 2:
            raise ConfigError(
                f"a head of {config.width // config.heads} channels cannot be turned in pairs; "
                f"make width {config.width} divided by heads {config.heads} an even number"
            )

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies: all of a head's on the first axis."""
        return frequencies((self.config.width // self.config.heads, 0, 0), self.config.base, device)

    def _turn_at(self, places: Tensor, rates: Sequence[Tensor]) -> Turn:
        return turn(places, rates, "blocks")

    def _places(self, positions: Tensor, real: Tensor | None) -> Tensor:
        return _running(positions, real) if self.config.place == "index" else positions


def _running(positions: Tensor, real: Tensor | None) -> Tensor:
    """(number, 0, 0) for each token: real ones are counted, so that padding moves nobody behind it."""
    if real is None:
        numbers = torch.arange(positions.shape[1], device=positions.device)[None]
    else:
        numbers = (real.cumsum(dim=1) - 1).clamp(min=0)
    return torch.nn.functional.pad(numbers[..., None].to(positions.dtype), (0, 2))


def _block(config: FlagDiT.Config, modulation_width: int) -> FlagBlock:
    attention, feed = branches(config)
    return FlagBlock(attention, feed, config.width, config.memory_width, modulation_width, config.eps)
