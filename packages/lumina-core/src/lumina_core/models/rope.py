"""Rotary positions on three axes: angles from explicit coordinates, and the turning of queries and keys by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.models.layers import can_run_inplace


@dataclass(frozen=True)
class RotaryEmbedding:
    """Cosines and sines of the angles, each (B or 1, N, 1, head width / 2), float32."""

    cos: Tensor
    sin: Tensor

    @cached_property
    def cis(self) -> Tensor:
        """cos + i sin."""
        return torch.complex(self.cos, self.sin)


def frequencies(
    axes_dim: Sequence[int], theta: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, ...]:
    """For each axis base^(-2k / axis width), k < axis width / 2.

    With two equal axes that is base^(-4k / head width), with three base^(-6k / head width): Lumina-Next, section 2.2
    and `precompute_freqs_cis` of the published code.

    Args:
        axes: channels of a head that each axis turns; even numbers, 0 for an axis that is not used.
        device: where the positions are; made there, they keep no forward pass waiting for a copy. None: the CPU.
    """
    if device is None or device.type == "mps":  # which knows no float64
        device = torch.device("cpu")
    steps = (torch.arange(0, width, 2, dtype=torch.float64, device=device) / max(width, 1) for width in axes_dim)
    return tuple(theta**-step for step in steps)


def check_axes_dim(axes_dim: Sequence[int], head_dim: int, layout: str) -> None:
    """Raise ConfigError unless the axes fill a head (and are equally wide where they are interleaved)."""
    used = [width for width in axes_dim if width]
    if len(axes_dim) != 3 or sum(axes_dim) != head_dim or any(width % 2 or width < 0 for width in axes_dim):
        raise ConfigError(f"axes {list(axes_dim)} must be three even numbers whose sum is the head width {head_dim}")
    if layout == "interleaved" and len(set(used)) > 1:
        raise ConfigError(f"interleaved axes must be equally wide, got {used}; use `layout: blocks`")


def rope_from_positions(positions: Tensor, freqs: Sequence[Tensor], layout: str) -> RotaryEmbedding:
    """Angles of tokens at positions (B, N, 3), in token pitches.

    Args:
        per_axis: frequencies of each axis, as `frequencies` makes them.
        layout: `interleaved`, pairs of channels take the used axes in turn (published two-axis weights: even pairs the
            row, odd pairs the column); `blocks`, one axis after another (the paper's three-axis form).
    """
    if positions.shape[0] > 1 and positions.stride(0) == 0:
        positions = positions[:1]  # every item stands in the same places: one table serves all
    coordinates = positions.to(torch.float64) if positions.device.type != "mps" else positions
    angles = [
        coordinates[..., axis : axis + 1] * rates.to(coordinates) for axis, rates in enumerate(freqs) if rates.numel()
    ]
    joined = torch.stack(angles, dim=-1).flatten(-2) if layout == "interleaved" else torch.cat(angles, dim=-1)
    joined = joined[:, :, None]
    return RotaryEmbedding(joined.cos().float(), joined.sin().float())


def apply_rotary_emb(x: Tensor, rope: RotaryEmbedding, inplace: bool = False) -> Tensor:
    """Turn each adjacent pair of channels of x (B, N, heads, head width); float32 inside, x's dtype outside.

    Args:
        own: x is needed by nobody else and may be written over.
    """
    if x.device.type == "cpu":
        # the same numbers by the way that is quickest there: compilers know no complex numbers
        return _rotate_matmul(x, rope) if torch.compiler.is_compiling() else _rotate_complex(x, rope, inplace)
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    rotated = (real * rope.cos - imaginary * rope.sin, real * rope.sin + imaginary * rope.cos)
    return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)


def _rotate_complex(x: Tensor, rope: RotaryEmbedding, inplace: bool) -> Tensor:
    x_float = x.float().contiguous()
    pairs = torch.view_as_complex(x_float.unflatten(-1, (-1, 2)))
    if can_run_inplace(x):
        rotated = pairs.mul_(rope.cis) if inplace or x_float is not x else pairs * rope.cis
    else:
        rotated = pairs * torch.complex(rope.cos, rope.sin)
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


def _rotate_matmul(x: Tensor, rope: RotaryEmbedding) -> Tensor:
    # neighbours change places by a product with zeros and ones, which is exact; picking every second number would keep
    # the compiler from vector instructions, and took a fifth of a whole training step
    head_dim = x.shape[-1]
    swap = torch.eye(head_dim, dtype=x.dtype, device=x.device).unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    cos = rope.cos.repeat_interleave(2, dim=-1)
    sin = torch.stack((-rope.sin, rope.sin), dim=-1).flatten(-2)
    with torch.autocast("cpu", enabled=False):  # in bfloat16 the product would round
        swapped = (x @ swap).float()
    rotated: Tensor = x.float() * cos + swapped * sin
    return rotated.to(x.dtype)
