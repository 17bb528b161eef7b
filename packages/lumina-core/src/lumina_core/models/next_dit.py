"""Next-DiT, the backbone of Lumina-Next (arXiv 2406.18583)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.models.attention import AttentionMask, ContextInput, CrossAttentionKV, Segments
from lumina_core.models.dit import BlockBase, DiTBackbone, DiTConfig
from lumina_core.models.layers import RMSNorm, add_normed
from lumina_core.models.rope import AxialRope
from lumina_core.protocols import AttentionTransform, PositionEncoding

if TYPE_CHECKING:
    from lumina_core.models.context_drop import PooledAttention

MAX_MODULATION_DIM = 1024
"""Largest width of the modulation vector, as published."""


class NextDiTBlock(BlockBase):
    """x + tanh(gate) * norm2(branch(norm1(x) * (1 + scale))), attention, then feed-forward (Lumina-Next, 2.1)."""

    def __init__(self, config: NextDiTBackbone.Config, modulation_dim: int) -> None:
        super().__init__(config, modulation_dim, 4)
        dim, eps, weighted = config.hidden_size, config.eps, config.weighted_pre_norm
        self.attention_norm1, self.ffn_norm1 = RMSNorm(dim, eps, weighted), RMSNorm(dim, eps, weighted)
        self.attention_norm2, self.ffn_norm2 = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.drop_path = 0.0

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
        scale_a, gate_a, scale_f, gate_f = self._modulation_params(modulation)
        if self.drop_path and self.training:
            gate_a, gate_f = (gate * _drop_path(x, mask, self.drop_path) for gate in (gate_a, gate_f))
        attn_input = self.attention_norm1(x, scale_a)
        attn_out = self.attention(attn_input, encoding, mask, self.as_kv(cross_kv), scale, pooled_attention)
        x = add_normed(x, attn_out, self.attention_norm2, gate_a)
        ffn_out = self.feed_forward(self.ffn_norm1(x, scale_f))
        return add_normed(x, ffn_out, self.ffn_norm2, gate_f)

    def block_input(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """Compute the input of attention (B, N, C), by which a block cache measures change."""
        attn_input: Tensor = self.attention_norm1(x, self._modulation_params(modulation)[0])
        return attn_input

    def _modulation_params(self, modulation: Tensor | None) -> tuple[Tensor | float, ...]:
        if self.modulation is None or modulation is None:
            return (1.0, 1.0, 1.0, 1.0)
        scale_a, gate_a, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(4, dim=-1)
        return (1 + scale_a, gate_a.tanh(), 1 + scale_f, gate_f.tanh())


def _drop_path(x: Tensor, mask: AttentionMask, rate: float) -> Tensor:
    """Draw the factors of a branch of x (B, N, C): 0 with probability `rate`, else 1 / (1 - rate), one per item.

    Stochastic depth (arXiv 1603.09382). Packed sequences are items: their factors are (1, N, 1).
    """
    items = len(mask.lengths) if isinstance(mask, Segments) else len(x)
    factors = torch.empty(items, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - rate).div_(1 - rate)
    return mask.expand(factors[:, 0], x.shape[1])[None] if isinstance(mask, Segments) else factors


class NextDiTBackbone(DiTBackbone):
    """Next-DiT over tokens, as published in lumina_next_t2i_mini/models/nextdit.py, with explicit positions.

    The plain module over latents (B, C, H, W) is `lumina_core.NextDiTBackbone`.
    """

    class Config(DiTConfig):
        """Sizes, and how the three axes share a head."""

        rope_axes_dim: tuple[int, int, int] | None = Field(
            None, description="channels of a head for time, row and column; None: row and column share it"
        )
        rope_layout: Literal["interleaved", "blocks"] = Field(
            "blocks", description="interleaved: as in the published weights"
        )
        drop_path: float = Field(
            0.0,
            ge=0,
            lt=1,
            description="probability that training skips a branch of the last block for an item; "
            "earlier blocks linearly less",
        )
        weighted_pre_norm: bool = Field(True, description="False: as in the published ImageNet models")

    config: Config

    def __init__(self, config: Config, position_encoding: PositionEncoding | None = None) -> None:
        super().__init__(config, position_encoding)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, NextDiTBlock)
            block.drop_path = config.drop_path * index / max(1, config.num_layers - 1)

    def _modulation_dim(self, config: DiTConfig) -> int:
        return min(config.hidden_size, MAX_MODULATION_DIM)

    def _make_block(self) -> NextDiTBlock:
        return NextDiTBlock(self.config, self.modulation_dim)

    def _default_encoding(self) -> PositionEncoding:
        config = self.config
        rope = {"axes_dim": config.rope_axes_dim, "layout": config.rope_layout, "theta": config.rope_theta}
        return AxialRope(AxialRope.Config.read({**rope, **config.child_options()}, "core.next_dit"))
