"""Flag-DiT, the backbone of Lumina-T2X before Next-DiT: the paper's baseline, and that of the released sound models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.models.attention import AttentionMask, ContextInput, CrossAttentionKV
from lumina_core.models.dit import BlockBase, DiTBackbone, DiTConfig
from lumina_core.models.layers import RMSNorm
from lumina_core.models.rope import AxialRope
from lumina_core.protocols import AttentionTransform

if TYPE_CHECKING:
    from lumina_core.models.context_drop import PooledAttention


class FlagDiTBlock(BlockBase):
    """x + gate * branch(norm(x) * (1 + scale) + shift), attention, then feed-forward (lumina_music).

    There is no norm after a branch and no tanh on a gate, which makes it less stable than Next-DiT's block.
    """

    def __init__(self, config: FlagDiTBackbone.Config, modulation_dim: int) -> None:
        super().__init__(config, modulation_dim, 6)
        self.attention_norm = RMSNorm(config.hidden_size, config.eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.eps)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        encoding: AttentionTransform,
        mask: AttentionMask = None,
        cross_kv: CrossAttentionKV | ContextInput | None = None,
        scale: float | Tensor | None = None,
        pooled_attention: PooledAttention | None = None,
    ) -> Tensor:
        """Map x (B, N, C) and modulation (B, A) after SiLU, or None, to (B, N, C); for the rest see `Attention`."""
        kv = self.as_kv(cross_kv)
        if self.modulation is None or modulation is None:
            x = x + self.attention(self.attention_norm(x), encoding, mask, kv, scale, pooled_attention)
            unmodulated: Tensor = x + self.feed_forward(self.ffn_norm(x))
            return unmodulated
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(6, dim=-1)
        attn_input = self.attention_norm(x, 1 + scale_a) + shift_a
        x = x + gate_a * self.attention(attn_input, encoding, mask, kv, scale, pooled_attention)
        output: Tensor = x + gate_f * self.feed_forward(self.ffn_norm(x, 1 + scale_f) + shift_f)
        return output

    def block_input(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """Compute the input of attention (B, N, C), by which a block cache measures change."""
        normed: Tensor = self.attention_norm(x)
        if self.modulation is None or modulation is None:
            return normed
        shift, scale = self.modulation(modulation)[:, None].chunk(6, dim=-1)[:2]
        attn_input: Tensor = normed * (1 + scale) + shift
        return attn_input


class FlagDiTBackbone(DiTBackbone):
    """Flag-DiT over tokens, as published in lumina_music/models/diffusion/flag_large_dit.py; rotary on one axis.

    Its head is `core.velocity` with `shift: true`. The published sound model takes times from 0 to 999, 1000 times
    those here. The plain module over latents (B, C, H, W) is `lumina_core.FlagDiTBackbone`.
    """

    class Config(DiTConfig):
        """Sizes, and the position of a token."""

        position_ids: Literal["index", "time"] = Field(
            "index", description="index: running number of the token, as published; time: axis 0 of its position"
        )

    config: Config

    def _make_block(self) -> FlagDiTBlock:
        return FlagDiTBlock(self.config, self.modulation_dim)

    def _default_encoding(self) -> AxialRope:
        rope = {"axes_dim": (self.config.head_dim, 0, 0), "theta": self.config.rope_theta}
        return AxialRope(AxialRope.Config.read({**rope, **self.config.child_options()}, "core.flag_dit"))

    def _encoded_positions(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        return _running_index(positions, mask) if self.config.position_ids == "index" else positions


def _running_index(positions: Tensor, mask: Tensor | None) -> Tensor:
    """Return (index, 0, 0) for each token; only real tokens are counted, so that padding shifts no token."""
    if mask is None:
        index = torch.arange(positions.shape[1], device=positions.device)[None]
    else:
        index = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.nn.functional.pad(index[..., None].to(positions.dtype), (0, 2))
