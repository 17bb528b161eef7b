"""Coupling of noise and points: exact assignment mixed with independent pairs."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.types import Tokens


class MixedTransport:
    """Noise of a cloud assigned to its points by distance to the points, after a part of the noise is exchanged.

    Not-So-Optimal Transport Flows (arXiv 2502.12456, section 4.3) start paths at sqrt(1 - b) z + sqrt(b) e, where z is
    the noise that is assigned to a point and e is independent noise: with exact pairs alone, the velocity near noise is
    hard to learn. Here the noise of every point is compared as sqrt(1 - b) z + sqrt(b) e, e the noise of the next
    point, and z itself is then permuted by the assignment. The pairs of start and point have the same joint
    distribution, and the noise of a cloud is the same set as before. The assignment is exact (scipy) and depends on the
    noise and the points of one cloud alone.
    """

    class Config(Settings):
        """Share of independent noise."""

        mix: float = Field(
            0.1, ge=0, le=1, description="b, variance of the independent part: 0 exact assignment, 1 independent pairs"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, noise: Tensor, tokens: Tokens) -> Tensor:
        """Permute the noise (B, N, D) of each cloud; padding stays zero."""
        coupled, mix = noise.clone(), self.config.mix
        lengths = [noise.shape[1]] * len(noise) if tokens.mask is None else tokens.mask.sum(dim=1).tolist()
        for row, length in enumerate(lengths):
            own, points = noise[row, :length].double(), tokens.values[row, :length].double()
            compared = math.sqrt(1 - mix) * own + math.sqrt(mix) * own.roll(1, dims=0)
            order = linear_sum_assignment(-(points @ compared.T).cpu().numpy())[1]
            coupled[row, :length] = noise[row, torch.as_tensor(order, device=noise.device)]
        return coupled
