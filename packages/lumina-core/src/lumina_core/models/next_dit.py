"""Next-DiT, the backbone of Lumina-Next: tokens, time and condition -> hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.models.dit import DiTBackbone, DiTConfig, NextDiTBlock, make_attn_mlp
from lumina_core.models.rope import RotaryEmbedding, check_axes_dim, frequencies, rope_from_positions

MAX_MODULATION_DIM = 1024
"""The modulation vector is at most so wide, as published."""


class NextDiT(DiTBackbone):
    """As published in lumina_next_t2i_mini/models/nextdit.py, over tokens with explicit positions."""

    class Config(DiTConfig):
        """Sizes, and how the three axes share a head."""

        rope_axes_dim: tuple[int, int, int] = Field(description="channels of a head turned by time, row and column")
        rope_layout: Literal["interleaved", "blocks"] = Field(
            "blocks", description="interleaved: as in the published weights"
        )
        weighted_pre_norm: bool = Field(True, description="False: as in the published ImageNet models")

    config: Config

    def __init__(self, config: Config) -> None:
        modulation_dim = min(config.hidden_size, MAX_MODULATION_DIM) if config.time_conditioned else 0
        super().__init__(config, modulation_dim, lambda: _make_block(config, modulation_dim))
        check_axes_dim(config.rope_axes_dim, config.hidden_size // config.num_heads, config.rope_layout)

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies of the three axes."""
        return frequencies(self.config.rope_axes_dim, self.config.rope_theta, device)

    def _rope_at(self, positions: Tensor, freqs: Sequence[Tensor]) -> RotaryEmbedding:
        return rope_from_positions(positions, freqs, self.config.rope_layout)


def _make_block(config: NextDiT.Config, modulation_dim: int) -> NextDiTBlock:
    attention, feed_forward = make_attn_mlp(config)
    hidden_size, cross_attention_dim = config.hidden_size, config.cross_attention_dim
    return NextDiTBlock(
        attention, feed_forward, hidden_size, cross_attention_dim, modulation_dim, config.eps, config.weighted_pre_norm
    )
