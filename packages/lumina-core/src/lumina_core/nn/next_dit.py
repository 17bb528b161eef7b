"""Next-DiT, the backbone of Lumina-Next: tokens, time and condition -> hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.nn.block import Block
from lumina_core.nn.rotary import Turn, check_split, frequencies, turn
from lumina_core.nn.trunk import Sizes, Trunk, branches

MODULATION = 1024
"""The modulation vector is at most so wide, as published."""


class NextDiT(Trunk):
    """As published in lumina_next_t2i_mini/models/nextdit.py, over tokens with explicit positions."""

    class Config(Sizes):
        """Sizes, and how the three axes share a head."""

        axes: tuple[int, int, int] = Field(description="channels of a head turned by time, row and column")
        layout: Literal["interleaved", "blocks"] = Field(
            "blocks", description="interleaved: as in the published weights"
        )
        weighted_pre_norm: bool = Field(True, description="False: as in the published ImageNet models")

    config: Config

    def __init__(self, config: Config) -> None:
        modulation_width = min(config.width, MODULATION) if config.timed else 0
        super().__init__(config, modulation_width, lambda: _block(config, modulation_width))
        check_split(config.axes, config.width // config.heads, config.layout)

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The trained rotary frequencies of the three axes."""
        return frequencies(self.config.axes, self.config.base, device)

    def _turn_at(self, places: Tensor, rates: Sequence[Tensor]) -> Turn:
        return turn(places, rates, self.config.layout)


def _block(config: NextDiT.Config, modulation_width: int) -> Block:
    attention, feed = branches(config)
    width, memory = config.width, config.memory_width
    return Block(attention, feed, width, memory, modulation_width, config.eps, config.weighted_pre_norm)
