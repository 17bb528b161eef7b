"""Conditioner of partial clouds: given points as reference tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition, Tokens, stack_tokens


class PartialCloudConditioner(nn.Module, Conditioner):
    """Encode given points of a cloud to reference tokens, which share the self-attention and are not denoised."""

    class Config(Settings):
        """Scale of the coordinates, and the number of reference tokens."""

        scaling_factor: float = Field(
            2.2, gt=0, allow_inf_nan=False, description="that of the autoencoder, 3d.scaled_coordinates"
        )
        max_count: int = Field(
            128, ge=1, description="points of a partial cloud in training; more are thinned out evenly in their order"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        # stored, so that the module has a device and a dtype
        self.origin: Tensor
        self.register_buffer("origin", torch.zeros(3))

    def encode(self, values: Sequence[Tensor | None]) -> Condition:
        """Encode partial clouds (K, 3) in [-1, 1], None for none, to reference tokens; padded and masked.

        Raises:
            ConfigError: a cloud has another shape, or a coordinate is not finite.
        """
        return Condition(reference=stack_tokens([self._tokens(value) for value in values]))

    def null_condition(self, batch: int) -> Condition:
        """Return a condition with no reference tokens, (B, 0, 3)."""
        empty = self.origin.new_zeros(batch, 0, 3)
        return Condition(reference=Tokens(empty, empty, ((0,),) * batch))

    def _tokens(self, value: Tensor | None) -> Tokens:
        points = self.origin.new_zeros(0, 3) if value is None else torch.as_tensor(value)
        if points.ndim != 2 or points.shape[1] != 3 or not bool(points.isfinite().all()):
            raise ConfigError(f"partial cloud: got the shape {tuple(points.shape)}, expected finite points (K, 3).")
        if len(points) > self.config.max_count:
            points = points[torch.linspace(0, len(points) - 1, self.config.max_count).round().long()]
        points = points.to(self.origin) * self.config.scaling_factor
        return Tokens(points[None], torch.zeros(1, len(points), 3, device=points.device), ((len(points),),))
