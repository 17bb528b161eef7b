"""Position encodings: rotary embedding with fixed frequencies per axis, or with learned mixed frequencies.

The backbone owns one encoding and calls it once a request, with the positions of the tokens. It returns either one
transform, shared by all blocks, or one per block. Attention applies it through `AttentionTransform` and depends on
nothing else of the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.models import cpu_kernels
from lumina_core.protocols import AttentionTransform, Component


@dataclass(frozen=True)
class RotaryEmbedding(AttentionTransform):
    """Rotation of queries and keys by angles.

    Attributes:
        cos, sin: (B or 1, N, 1 or key heads, head_dim / 2) float32; with 1, all heads share the angles.
    """

    cos: Tensor
    sin: Tensor

    @cached_property
    def cis(self) -> Tensor:
        """cos + i sin."""
        return torch.complex(self.cos, self.sin)

    def query(self, q: Tensor, overwrite: bool = False) -> Tensor:
        """Rotate queries; query heads that share a key head have its angles."""
        heads = self.cos.shape[2]
        if heads in (1, q.shape[2]):
            return apply_rotary_emb(q, self, overwrite)
        cos, sin = (table.repeat_interleave(q.shape[2] // heads, dim=2) for table in (self.cos, self.sin))
        return apply_rotary_emb(q, RotaryEmbedding(cos, sin), overwrite)

    def key(self, k: Tensor) -> Tensor:
        """Rotate keys."""
        return apply_rotary_emb(k, self)


def frequencies(
    axes_dim: Sequence[int], theta: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, ...]:
    """Compute for each axis theta^(-2k / axis_dim), k < axis_dim / 2, in float64.

    With two equal axes that is theta^(-4k / head_dim), with three theta^(-6k / head_dim): Lumina-Next, section 2.2, and
    `precompute_freqs_cis` of the published code.

    Args:
        axes_dim: channels of a head for each axis; even numbers, 0 for an unused axis.
        theta: base of the frequencies.
        device: of the positions, so that no forward pass waits for a copy; None: the CPU.
    """
    if device is None or device.type == "mps":  # which has no float64
        device = torch.device("cpu")
    steps = (torch.arange(0, dim, 2, dtype=torch.float64, device=device) / max(dim, 1) for dim in axes_dim)
    return tuple(theta**-step for step in steps)


def check_axes_dim(axes_dim: Sequence[int], head_dim: int, layout: str) -> None:
    """Raise ConfigError unless the axes fill a head and, if interleaved, have the same number of channels."""
    used = [dim for dim in axes_dim if dim]
    if len(axes_dim) != 3 or sum(axes_dim) != head_dim or any(dim % 2 or dim < 0 for dim in axes_dim):
        raise ConfigError(
            f"rope axes: got {list(axes_dim)}, expected three even numbers whose sum is the head dimension {head_dim}"
        )
    if layout == "interleaved" and len(set(used)) > 1:
        raise ConfigError(f"rope axes: got {used}, expected equal numbers if interleaved. Use the layout `blocks`.")


def rope_from_positions(positions: Tensor, freqs: Sequence[Tensor], layout: str) -> RotaryEmbedding:
    """Compute the angles of tokens from their positions, in float64.

    Args:
        positions: (B, N, 3), in token units. Items that share one table (stride 0) get one table.
        freqs: for each axis (axis_dim / 2,), or (B, 1, axis_dim / 2) for frequencies that differ by item.
        layout: `interleaved`, channel pairs take the used axes in turn (published two-axis weights: even pairs the row,
            odd pairs the column); `blocks`, one axis after another (the paper's three-axis form).
    """
    positions = without_repeats(positions)
    coordinates = positions.to(torch.float64) if positions.device.type != "mps" else positions
    angles = [
        coordinates[..., axis : axis + 1] * rates.to(coordinates) for axis, rates in enumerate(freqs) if rates.numel()
    ]
    joined = torch.stack(angles, dim=-1).flatten(-2) if layout == "interleaved" else torch.cat(angles, dim=-1)
    joined = joined[:, :, None]
    return RotaryEmbedding(joined.cos().float(), joined.sin().float())


def without_repeats(positions: Tensor) -> Tensor:
    """Return (1, N, 3) if all items of (B, N, 3) are views of one table, else the positions themselves."""
    return positions[:1] if positions.shape[0] > 1 and positions.stride(0) == 0 else positions


def apply_rotary_emb(x: Tensor, rope: RotaryEmbedding, overwrite: bool = False) -> Tensor:
    """Rotate each adjacent pair of channels of x (B, N, heads, head_dim); float32 inside, x's dtype outside.

    Args:
        x: queries or keys.
        rope: its angles.
        overwrite: x is not used elsewhere and may be written to.
    """
    if x.device.type == "cpu" and torch.compiler.is_compiling():  # which has no complex numbers
        return cpu_kernels.rotate_pairs_compiled(x, rope.cos, rope.sin)
    if x.device.type == "cpu" and cpu_kernels.enabled:
        return cpu_kernels.rotate_pairs(
            x, rope.cos, rope.sin, rope.cis if cpu_kernels.is_active(x) else None, overwrite
        )
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    rotated = (real * rope.cos - imaginary * rope.sin, real * rope.sin + imaginary * rope.cos)
    return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)


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
