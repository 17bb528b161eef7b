"""Next-DiT, the backbone of Lumina-Next (arXiv 2406.18583)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

from lumina_core.models.attention import ContextInput, CrossAttentionKV
from lumina_core.models.dit import BlockBase, DiTBackbone, DiTConfig
from lumina_core.models.layers import RMSNorm, add_normed
from lumina_core.models.rope import AxialRope
from lumina_core.protocols import AttentionTransform

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

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        encoding: AttentionTransform,
        mask: Tensor | None = None,
        cross_kv: CrossAttentionKV | ContextInput | None = None,
        scale: float | Tensor | None = None,
        pooled_attention: PooledAttention | None = None,
    ) -> Tensor:
        """Map x (B, N, C) and modulation (B, A) after SiLU, or None, to (B, N, C); for the rest see `Attention`."""
        scale_a, gate_a, scale_f, gate_f = self._modulation_params(modulation)
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
        weighted_pre_norm: bool = Field(True, description="False: as in the published ImageNet models")

    config: Config

    def _modulation_dim(self, config: DiTConfig) -> int:
        return min(config.hidden_size, MAX_MODULATION_DIM)

    def _make_block(self) -> NextDiTBlock:
        return NextDiTBlock(self.config, self.modulation_dim)

    def _default_encoding(self) -> AxialRope:
        config = self.config
        rope = {"axes_dim": config.rope_axes_dim, "layout": config.rope_layout, "theta": config.rope_theta}
        return AxialRope(AxialRope.Config.read({**rope, **config.child_options()}, "core.next_dit"))
