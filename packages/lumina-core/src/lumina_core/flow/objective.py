"""Flow matching: draw a time, mix data with noise, ask for a prediction, compare under the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.flow.path import Prediction, convert, mix, velocity_between
from lumina_core.parts import Draw, Path_, Predict
from lumina_core.types import Batch, Loss


class FlowMatching:
    """The objective of Lumina-Next, and its relatives by what the network predicts.

    Each item's loss is the mean over its own real numbers, the batch's the mean over items, as published. `compare:
    velocity` turns a prediction into a velocity first; with `prediction: data` that is JiT's x-prediction (2511.13720).
    """

    class Config(Settings):
        """What is predicted and compared; path and times are parts of their own."""

        path: Use = Field(Use(use="core.linear"), description="the road between noise and data")
        times: Use = Field(Use(use="core.uniform"), description="the draw of times")
        prediction: Prediction = Field("velocity", description="what the network answers")
        compare: Literal["velocity", "prediction"] = Field("velocity", description="what the loss is taken of")
        floor: float = Field(0.05, ge=0, lt=0.5, description="alpha and sigma count as at least this in conversions")

    def __init__(self, config: Config, path: Path_, times: Draw) -> None:
        self.config, self.path, self.times = config, path, times

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """The loss of a batch; one generator an item gives its time and its noise."""
        data = batch.tokens.values
        time = self.times(generators).to(data)
        return Loss(self.items(predict, batch, time, noise_like(batch, generators)).mean())

    def items(self, predict: Predict, batch: Batch, time: Tensor, noise: Tensor) -> Tensor:
        """The loss (B,) of each item at given times (B,) and noise (B, N, D)."""
        data = batch.tokens.values
        x = mix(self.path, noise, data, time)
        answer = predict(batch.tokens.with_values(x), time, batch.condition).float()
        if self.config.compare == "prediction" or self.config.prediction == "velocity":
            wanted = self._wanted(noise, data, x, time)
        else:
            answer = self.velocity(answer, x, time)
            # converted alike, so that the floor does not ask for what cannot be answered
            wanted = self.velocity(self._wanted(noise, data, x, time), x, time)
        return per_item(answer - wanted, batch.tokens.mask)

    def velocity(self, prediction: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """A prediction (B, N, D) at x and time (B,) as a velocity."""
        return convert(self.path, prediction, x, time, self.config.prediction, "velocity", self.config.floor)

    def _wanted(self, noise: Tensor, data: Tensor, x: Tensor, time: Tensor) -> Tensor:
        if self.config.prediction == "data":
            return data
        if self.config.prediction == "noise":
            return noise
        velocity = velocity_between(self.path, noise, data, time)
        return (
            velocity
            if self.config.prediction == "velocity"
            else convert(self.path, noise, x, time, "noise", "score", self.config.floor)
        )


def noise_like(batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, N, D) standard normal noise; each item's own length is drawn from its own generator (CPU), padding is 0."""
    values, mask = batch.tokens.values, batch.tokens.mask
    noise = torch.zeros(values.shape)
    lengths = [values.shape[1]] * len(noise) if mask is None else mask.sum(dim=1).tolist()
    for row, length, generator in zip(noise, lengths, generators, strict=True):
        row[:length].normal_(generator=generator)
    return noise.to(values)


def per_item(difference: Tensor, mask: Tensor | None) -> Tensor:
    """(B,) mean squared difference of each item's own real numbers."""
    squared = difference.square().mean(dim=-1)
    if mask is None:
        return squared.mean(dim=-1)
    return (squared * mask).sum(dim=-1) / mask.sum(dim=-1)
