"""Position encodings: components that turn token positions into transforms of queries, keys and values.

The backbone owns one encoding and calls it once a request. It returns either one transform, shared by all blocks, or
one per block. Attention applies it through `AttentionTransform` and knows nothing else about positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.models.rope import (
    RotaryEmbedding,
    check_axes_dim,
    frequencies,
    rope_from_positions,
    without_repeats,
)
from lumina_core.protocols import AttentionTransform, Component


class PositionEncodingConfig(Settings):
    """Sizes that the backbone decides; filled in when a model is built."""

    head_dim: int = Field(0, ge=0, description="channels of a head; filled in")
    num_heads: int = Field(0, ge=0, description="key heads of a block; filled in")
    num_layers: int = Field(0, ge=0, description="blocks; filled in")


class AxialRope(nn.Module):
    """Axial rotary embedding: each channel pair belongs to one axis; one table for all heads and blocks. No weights."""

    class Config(PositionEncodingConfig):
        """How the axes share a head."""

        axes_dim: tuple[int, int, int] | None = Field(
            None, description="channels of a head for time, row and column; None: row and column share it"
        )
        layout: Literal["interleaved", "blocks"] = Field(
            "blocks", description="interleaved: channel pairs take the axes in turn, as in the published weights"
        )
        theta: float = Field(10000.0, gt=1, description="base of the rotary frequencies")

    def __init__(self, config: Config) -> None:
        super().__init__()
        half = config.head_dim // 2
        self.axes_dim = (0, half, config.head_dim - half) if config.axes_dim is None else config.axes_dim
        self.layout, self.theta = config.layout, config.theta
        check_axes_dim(self.axes_dim, config.head_dim, config.layout)

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the frequencies of each axis, (axis_dim / 2,) float64."""
        return frequencies(self.axes_dim, self.theta, device)

    def forward(self, positions: Tensor, freqs: Sequence[Tensor]) -> tuple[AttentionTransform, ...]:
        """Return one rotary embedding for all blocks; see `protocols.PositionEncoding`."""
        return (rope_from_positions(positions, freqs, self.layout),)


class MixedRope(Component, nn.Module):
    """Mixed rotary embedding with learned frequencies (RoPE-Mixed, arXiv 2403.13298).

    Every channel pair of every key head and block has its own frequency along every axis, so that diagonal directions
    are encoded too: the angle of a pair is the scalar product of frequencies and position. Frequencies begin as in the
    paper: magnitudes theta^(-n k / (head_dim / 2)) for n axes, in n orthogonal directions turned at random per head;
    those of other axes begin at zero.
    """

    class Config(PositionEncodingConfig):
        """Which axes are mixed, and the first frequencies."""

        axes: tuple[int, ...] = Field(
            (1, 2), min_length=1, description="axes of the positions: 0 time, 1 row, 2 column"
        )
        theta: float = Field(10.0, gt=1, description="base of the first frequencies")

    def __init__(self, config: Config) -> None:
        super().__init__()
        axes = config.axes
        if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
            raise ConfigError(f"core.mixed_rope axes: got {list(axes)}, expected different numbers of 0, 1 and 2")
        if config.head_dim % 2 or not config.head_dim:
            raise ConfigError(f"core.mixed_rope head_dim: got {config.head_dim}, expected an even number")
        self.theta = config.theta
        pairs, count = config.head_dim // 2, len(axes)
        index = torch.arange(pairs)
        magnitudes = config.theta ** -((index // count) * count / pairs)
        rotations, _ = torch.linalg.qr(torch.randn(config.num_layers, config.num_heads, count, count))
        first = torch.zeros(3, config.num_layers, config.num_heads, pairs)
        for number, axis in enumerate(axes):
            first[axis] = magnitudes * rotations[..., number, :][..., index % count]
        self.freqs = nn.Parameter(first)
        """(3, num_layers, num_heads, head_dim / 2)"""

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the learned frequencies of each axis, (num_layers, num_heads, head_dim / 2)."""
        return tuple(self.freqs)

    def forward(self, positions: Tensor, freqs: Sequence[Tensor]) -> tuple[AttentionTransform, ...]:
        """Return one rotary embedding per block; see `protocols.PositionEncoding`."""
        coordinates = without_repeats(positions).float()
        transforms = []
        for layer in range(freqs[0].shape[-3]):
            angles = sum(
                coordinates[..., axis, None, None] * rates[..., layer, :, :].to(coordinates)
                for axis, rates in enumerate(freqs)
            )
            assert isinstance(angles, Tensor)  # there are three axes
            transforms.append(RotaryEmbedding(angles.cos(), angles.sin()))
        return tuple(transforms)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return {"freqs"}
