"""Flag-DiT, the backbone of Lumina-T2X that Next-DiT replaced: the paper's baseline, and the released sound models'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.models.attention import Attention, CrossAttentionKV
from lumina_core.models.context_drop import PooledAttention
from lumina_core.models.dit import BlockBase, DiTBackbone, DiTConfig, FeedForward, RMSNorm, make_attn_mlp
from lumina_core.models.rope import RotaryEmbedding, frequencies, rope_from_positions


class FlagDiTBlock(BlockBase):
    """x + gate * branch(norm(x) * (1 + scale) + shift), attention then feed-forward (lumina_music).

    No norm stands behind a branch and no tanh bounds a gate: that is what makes it less stable than Next-DiT's.

    Args:
        attention, feed: the two branches.
        modulation_width: of the vector that gives shifts, scales and gates; 0: none.
        memory_width: of the memory, which passes a norm of this block's own before attention; 0: none.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        hidden_size: int,
        cross_attention_dim: int,
        modulation_dim: int,
        eps: float,
    ) -> None:
        context_norm = RMSNorm(cross_attention_dim, eps) if cross_attention_dim else None
        super().__init__(attention, feed_forward, context_norm, modulation_dim, 6 * hidden_size)
        self.attention_norm, self.ffn_norm = RMSNorm(hidden_size, eps), RMSNorm(hidden_size, eps)

    def forward(
        self, x: Tensor, rope: RotaryEmbedding, mask: Tensor | None, cross_kv: CrossAttentionKV | None, modulation: Tensor | None,
        scale: float | Tensor | None = None, pooled_attention: PooledAttention | None = None,
    ) -> Tensor:  # fmt: skip
        """x (B, N, width), modulation (B, A) already through SiLU, or None -> (B, N, width)."""
        if self.modulation is None or modulation is None:
            x = x + self.attention(self.attention_norm(x), rope, mask, cross_kv, scale, pooled_attention)
            ffn_out: Tensor = self.feed_forward(self.ffn_norm(x))
            return x + ffn_out
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(6, dim=-1)
        attn_input = self.attention_norm(x, 1 + scale_a) + shift_a
        x = x + gate_a * self.attention(attn_input, rope, mask, cross_kv, scale, pooled_attention)
        ffn_out = self.feed_forward(self.ffn_norm(x, 1 + scale_f) + shift_f)
        output: Tensor = x + gate_f * ffn_out
        return output

    def block_input(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """What attention is handed of x (B, N, width), for who wants to know how much it has changed."""
        normed: Tensor = self.attention_norm(x)
        if self.modulation is None or modulation is None:
            return normed
        shift, scale = self.modulation(modulation)[:, None].chunk(6, dim=-1)[:2]
        attn_input: Tensor = normed * (1 + scale) + shift
        return attn_input


class FlagDiT(DiTBackbone):
    """As published in lumina_music/models/diffusion/flag_large_dit.py (FlagDiT), over tokens; rotary on one axis.

    Its head is `core.velocity` with `shift: true`. The published sound model takes times of 0 to 999, 1000 times ours.
    """

    class Config(DiTConfig):
        """Sizes, and what counts as a token's place."""

        position_ids: Literal["index", "time"] = Field(
            "index", description="index: running number of the token, as published; time: axis 0 of its position"
        )

    config: Config

    def __init__(self, config: Config) -> None:
        modulation_dim = (
            config.hidden_size if config.time_conditioned else 0
        )  # published: not capped at 1024 as Next-DiT's is
        super().__init__(config, modulation_dim, lambda: _make_block(config, modulation_dim))
        if config.hidden_size // config.num_heads % 2:
            raise ConfigError(
                f"a head of {config.hidden_size // config.num_heads} channels cannot be turned in pairs; "
                f"make hidden_size {config.hidden_size} divided by num_heads {config.num_heads} an even number"
            )

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies: all of a head's on the first axis."""
        return frequencies((self.config.hidden_size // self.config.num_heads, 0, 0), self.config.rope_theta, device)

    def _rope_at(self, positions: Tensor, freqs: Sequence[Tensor]) -> RotaryEmbedding:
        return rope_from_positions(positions, freqs, "blocks")

    def _rope_positions(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        return _running_index(positions, mask) if self.config.position_ids == "index" else positions


def _running_index(positions: Tensor, mask: Tensor | None) -> Tensor:
    """(number, 0, 0) for each token: real ones are counted, so that padding moves nobody behind it."""
    if mask is None:
        index = torch.arange(positions.shape[1], device=positions.device)[None]
    else:
        index = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.nn.functional.pad(index[..., None].to(positions.dtype), (0, 2))


def _make_block(config: FlagDiT.Config, modulation_dim: int) -> FlagDiTBlock:
    attention, feed_forward = make_attn_mlp(config)
    return FlagDiTBlock(
        attention, feed_forward, config.hidden_size, config.cross_attention_dim, modulation_dim, config.eps
    )
