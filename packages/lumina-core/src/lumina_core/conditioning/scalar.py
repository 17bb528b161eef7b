"""Scalar conditioner: a number (a duration, a pitch, a rate) -> pooled vector by Fourier features and an MLP."""

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
    """Encode one number per item to a pooled vector (B, hidden_size); None is encoded as the null condition.

    The number is scaled to u in 0..1. The inputs of the MLP are u and sines and cosines of pi 2^k u for
    k = 0 .. num_frequencies - 1 (Fourier features, arXiv 2006.10739), so that it can distinguish close numbers.
    """

    class Config(Settings):
        """Range of the number, and sizes of the encoder."""

        min: float = Field(0.0, allow_inf_nan=False, description="smallest number")
        max: float = Field(1.0, allow_inf_nan=False, description="largest number")
        unit: str = Field("", description="unit of the number, for messages: seconds, Hz")
        scale: Literal["linear", "log"] = Field(
            "linear", description="scale of u; log: equal ratios are equal steps, as for frequencies"
        )
        num_frequencies: int = Field(6, ge=1, le=16, description="number of frequencies, each twice the one before")
        mlp_hidden_size: int = Field(128, ge=1, description="width of the hidden layer")
        hidden_size: int = Field(256, ge=1, description="width of the pooled vector")

        @model_validator(mode="after")
        def _check_range(self) -> ScalarConditioner.Config:
            if not self.min < self.max:
                raise ValueError(f"max: got {self.max:g}, expected a number above min {self.min:g}")
            if self.scale == "log" and self.min <= 0:
                raise ValueError(f"min: got {self.min:g}, expected a number above 0 for a log scale")
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
        """Encode numbers to a pooled vector (B, hidden_size); None is encoded as the null condition.

        Raises:
            ConfigError: a number is outside of the range, or a value is not a number.
        """
        for value in values:
            self._check(value)
        is_number = torch.tensor([value is not None for value in values], device=self.null_embedding.device)
        # float64, so that the fraction of a large number is not lost
        fractions = [0.0 if value is None else self._normalize(float(value)) for value in values]
        embedded = self.mlp(
            self._fourier_features(torch.tensor(fractions, dtype=torch.float64)).to(self.null_embedding)
        )
        return Condition(pooled=torch.where(is_number[:, None], embedded, self.null_embedding))

    def null_condition(self, batch: int) -> Condition:
        """Return the learned null vector."""
        return Condition(pooled=self.null_embedding.expand(batch, -1))

    def _fourier_features(self, fractions: Tensor) -> Tensor:
        """(B,) in 0..1 -> (B, 1 + 2 num_frequencies)."""
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
        raise ConfigError(f"scalar: got {value!r}, expected a number from {config.min:g} to {config.max:g}{unit}.")
