"""Couplings of noise and data: independent, and optimal transport by exact assignment."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, install_command
from lumina_core.types import Tokens


class IndependentCoupling:
    """Noise independent of the data: flow matching as published for Lumina-Next."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, noise: Tensor, tokens: Tokens) -> Tensor:
        """Return the noise (B, N, D) as it is."""
        return noise


class OptimalTransportCoupling:
    """Noise assigned to data so that the sum of squared distances is minimal; needs scipy.

    Paths from noise to data then cross less, and fewer solver steps suffice. Minibatch optimal transport: Pooladian et
    al. (arXiv 2304.14772), Tong et al. (arXiv 2302.00482). Within a set (of points, say): Song et al., Equivariant Flow
    Matching (arXiv 2312.07168) assign the points of noise to the points of the data.

    The assignment is exact and depends on noise and data alone, so that a training is repeatable. With `scope: batch`
    an example's noise depends on the other examples of its micro-batch: another number of processes or of accumulation
    steps gives other losses.
    """

    class Config(Settings):
        """Scope of the assignment."""

        scope: Literal["batch", "set"] = Field(
            "batch",
            description="batch: noise of equally large examples is exchanged; set: noise of the items within each "
            "example, for data whose items have no order",
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, noise: Tensor, tokens: Tokens) -> Tensor:
        """Permute noise (B, N, D): examples along B or, with `scope: set`, items along N. Padding stays zero.

        Raises:
            ConfigError: scipy is not installed.
        """
        data, mask = tokens.values, tokens.mask
        lengths = [data.shape[1]] * len(data) if mask is None else mask.sum(dim=1).tolist()
        coupled = noise.clone()
        if self.config.scope == "set":
            for row, length in enumerate(lengths):
                order = _assign(noise[row, :length], data[row, :length])
                coupled[row, :length] = noise[row, order]
            return coupled
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, size in enumerate(tokens.sizes):
            groups.setdefault((lengths[row], *size), []).append(row)
        for rows in groups.values():
            order = _assign(noise[rows].flatten(1), data[rows].flatten(1))
            coupled[rows] = noise[rows][order]
        return coupled


def _assign(noise: Tensor, data: Tensor) -> Tensor:
    """Return for each row of data (M, D) the index of its row of noise (M, D): the assignment of minimal cost."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError(
            "coupling core.optimal_transport: got no scipy, expected it. Install it: "
            + install_command("lumina-core[optimal-transport]")
        ) from error
    # the cost is |data - noise|^2; its squared norms are the same in every assignment
    cost = -(data.double() @ noise.double().T)
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=noise.device)
