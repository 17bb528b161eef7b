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
from lumina_core.types import Condition


class NumberConditioner(nn.Module):
    """One number an item to a summary (B, width); None, for nothing said, is the same vector as silence.

    The number's place u in its range (0..1) becomes u, and sines and cosines of pi 2^k u, k = 0 .. waves - 1, so that a
    small network can tell near ones apart (Fourier features, arXiv 2006.10739). That a number may be left out, and then
    is silence, is our own proposal.
    """

    class Config(Settings):
        """The range of the number, and how it is read."""

        low: float = Field(0.0, allow_inf_nan=False, description="the smallest number that can be said")
        high: float = Field(1.0, allow_inf_nan=False, description="the largest")
        unit: str = Field("", description="of the number, for messages: seconds, Hz")
        scale: Literal["linear", "logarithm"] = Field(
            "linear", description="logarithm: equal ratios are equal steps, as in frequencies"
        )
        waves: int = Field(6, ge=1, le=16, description="each is twice as fine as the one before")
        hidden: int = Field(128, ge=1, description="width inside")
        width: int = Field(256, ge=1, description="of the summary")

        @model_validator(mode="after")
        def _rising(self) -> NumberConditioner.Config:
            if not self.low < self.high:
                raise ValueError(f"a range goes from low to a larger high; got {self.low:g} and {self.high:g}")
            if self.scale == "logarithm" and self.low <= 0:
                raise ValueError(f"on the scale of a logarithm low must be above 0; got {self.low:g}")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.memory_width, self.summary_width = 0, config.width
        self.read = nn.Sequential(
            nn.Linear(1 + 2 * config.waves, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width)
        )
        self.silence = nn.Parameter(0.02 * torch.randn(config.width))

    def encode(self, values: Sequence[float | None]) -> Condition:
        """Numbers -> summary (B, width); None is silence.

        Raises:
            ConfigError: one lies outside of the range, or is no number.
        """
        for value in values:
            self._check(value)
        said = torch.tensor([value is not None for value in values], device=self.silence.device)
        # in float64 first: what stands behind the point of a large number counts too
        places = [0.0 if value is None else self._place(float(value)) for value in values]
        read = self.read(self._waves(torch.tensor(places, dtype=torch.float64)).to(self.silence))
        return Condition(summary=torch.where(said[:, None], read, self.silence))

    def nothing(self, batch: int) -> Condition:
        """The vector of silence."""
        return Condition(summary=self.silence.expand(batch, -1))

    def _waves(self, places: Tensor) -> Tensor:
        """(B,) in 0..1 -> (B, 1 + 2 waves)."""
        angles = places[:, None] * math.pi * 2.0 ** torch.arange(self.config.waves, dtype=places.dtype)
        return torch.cat([places[:, None], angles.sin(), angles.cos()], dim=1)

    def _place(self, value: float) -> float:
        low, high = self.config.low, self.config.high
        if self.config.scale == "logarithm":
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def _check(self, value: object) -> None:
        config = self.config
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (plain and config.low <= value <= config.high):  # type: ignore[operator]
            return
        unit = f" {config.unit}" if config.unit else ""
        raise ConfigError(f"this model knows numbers from {config.low:g} to {config.high:g}{unit}; got {value!r}")
