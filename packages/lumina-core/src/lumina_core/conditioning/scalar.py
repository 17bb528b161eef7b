"""A number (a duration, a pitch, a rate) -> Condition: waves of it, read by a small network; a vector for silence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition


class ScalarConditioner(nn.Module, Conditioner):
    """One number an item to a summary (B, width); None, for nothing said, is the same vector as silence.

    The number's place u in its range (0..1) becomes u, and sines and cosines of pi 2^k u, k = 0 .. waves - 1, so that a
    small network can tell near ones apart (Fourier features, arXiv 2006.10739). That a number may be left out, and then
    is silence, is our own proposal.
    """

    class Config(Settings):
        """The range of the number, and how it is read."""

        min: float = Field(0.0, allow_inf_nan=False, description="the smallest number that can be said")
        max: float = Field(1.0, allow_inf_nan=False, description="the largest")
        unit: str = Field("", description="of the number, for messages: seconds, Hz")
        scale: Literal["linear", "log"] = Field(
            "linear", description="log: equal ratios are equal steps, as in frequencies"
        )
        num_frequencies: int = Field(6, ge=1, le=16, description="each is twice as fine as the one before")
        mlp_hidden_size: int = Field(128, ge=1, description="width inside")
        hidden_size: int = Field(256, ge=1, description="of the summary")

        @model_validator(mode="after")
        def _check_range(self) -> ScalarConditioner.Config:
            if not self.min < self.max:
                raise ValueError(f"a range goes from min to a larger max; got {self.min:g} and {self.max:g}")
            if self.scale == "log" and self.min <= 0:
                raise ValueError(f"on a log scale min must be above 0; got {self.min:g}")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim, self.pooled_dim = 0, config.hidden_size
        self.mlp = nn.Sequential(
            nn.Linear(1 + 2 * config.num_frequencies, config.mlp_hidden_size),
            nn.SiLU(),
            nn.Linear(config.mlp_hidden_size, config.hidden_size),
        )
        self.null_embedding = nn.Parameter(0.02 * torch.randn(config.hidden_size))

    def encode(self, values: Sequence[float | None]) -> Condition:
        """Numbers -> summary (B, width); None is silence.

        Raises:
            ConfigError: one lies outside of the range, or is no number.
        """
        for value in values:
            self._check(value)
        is_given = torch.tensor([value is not None for value in values], device=self.null_embedding.device)
        # in float64 first: what stands behind the point of a large number counts too
        fractions = [0.0 if value is None else self._normalize(float(value)) for value in values]
        embedded = self.mlp(
            self._fourier_features(torch.tensor(fractions, dtype=torch.float64)).to(self.null_embedding)
        )
        return Condition(pooled=torch.where(is_given[:, None], embedded, self.null_embedding))

    def null_condition(self, batch: int) -> Condition:
        """The vector of silence."""
        return Condition(pooled=self.null_embedding.expand(batch, -1))

    def _fourier_features(self, fractions: Tensor) -> Tensor:
        """(B,) in 0..1 -> (B, 1 + 2 waves)."""
        angles = fractions[:, None] * math.pi * 2.0 ** torch.arange(self.config.num_frequencies, dtype=fractions.dtype)
        return torch.cat([fractions[:, None], angles.sin(), angles.cos()], dim=1)

    def _normalize(self, value: float) -> float:
        minimum, maximum = self.config.min, self.config.max
        if self.config.scale == "log":
            minimum, maximum, value = math.log(minimum), math.log(maximum), math.log(value)
        return (value - minimum) / (maximum - minimum)

    def _check(self, value: object) -> None:
        config = self.config
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (is_number and config.min <= value <= config.max):  # type: ignore[operator]
            return
        unit = f" {config.unit}" if config.unit else ""
        raise ConfigError(f"this model knows numbers from {config.min:g} to {config.max:g}{unit}; got {value!r}")
