"""Point clouds <-> tokens: every point is a token, and the cloud is a set."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Tokenizer
from lumina_core.types import Size, Tokens, check_shape

NUM_AXES = 3


class PointSet(Tokenizer):
    """Tokenizer of point clouds (B, 3, N): one token (x, y, z) per point, without weights.

    Coordinates are generated, so positions say nothing about them. Axis 0 marks the anchors: it is 0 for the first
    `num_anchors` points of a cloud and 1 for all others, see `PointNextDiT`. The mark belongs to the point, so that a
    permutation of tokens permutes the output. With as many points as in training, all positions are 0.
    """

    class Config(Settings):
        """Number of anchors."""

        num_anchors: int = Field(256, ge=1, description="points per cloud that all points attend to; those of training")

    def __init__(self, config: Config) -> None:
        self.config, self.width = config, NUM_AXES

    def patchify(self, latent: Tensor) -> Tokens:
        """Convert a latent (B, 3, N) to tokens with values (B, N, 3).

        Raises:
            ShapeError: the latent has another shape.
        """
        check_shape(latent, (None, NUM_AXES, None), "a latent of points")
        batch, _, count = latent.shape
        return Tokens(latent.transpose(1, 2), self._positions(batch, count, latent.device), ((count,),) * batch)

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Convert tokens of one count, without padding, to a latent (B, 3, N): the exact inverse of `patchify`.

        Raises:
            ShapeError: the items have several counts, or the shape of the values does not match them.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"tokens: got {len(set(tokens.sizes))} counts, expected one per latent. Iterate over Tokens.items()."
            )
        check_shape(tokens.values, (len(tokens.sizes), self._count(tokens.sizes[0]), NUM_AXES), "tokens of a cloud")
        return tokens.values.transpose(1, 2)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Create tokens of zeros for clouds of `size` = (N,)."""
        count = self._count(size)
        values = torch.zeros(batch, count, NUM_AXES)
        return Tokens(values, self._positions(batch, count, values.device), (size,) * batch)

    def _count(self, size: Size) -> int:
        if len(size) != 1 or size[0] < 1:
            raise ShapeError(f"size of a point cloud: got {size}, expected (points,) with at least 1 point")
        return size[0]

    def _positions(self, batch: int, count: int, device: torch.device) -> Tensor:
        positions = torch.zeros(count, 3, device=device)
        positions[self.config.num_anchors :, 0] = 1
        return positions.expand(batch, -1, -1)
