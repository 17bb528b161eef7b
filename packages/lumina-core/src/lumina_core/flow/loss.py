"""Flow matching: draw a time, mix data with noise, ask for a prediction, compare under the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.flow.path import PredictionType, convert_prediction, sample_x_t, train_time, velocity_target
from lumina_core.protocols import Predict, ProbPath, TimeSampler
from lumina_core.types import Batch, Loss


class FlowMatching:
    """The objective of Lumina-Next, and its relatives by what the network predicts.

    Each item's loss is the mean over its own real numbers, the batch's the mean over items, as published. `compare:
    velocity` turns a prediction into a velocity first; with `prediction: data` that is JiT's x-prediction (2511.13720).
    """

    class Config(Settings):
        """What is predicted and compared; path and times are parts of their own."""

        path: ComponentSpec = Field(ComponentSpec(type="core.linear"), description="the road between noise and data")
        time_sampler: ComponentSpec = Field(ComponentSpec(type="core.uniform"), description="the draw of times")
        prediction: PredictionType = Field("velocity", description="what the network answers")
        loss_space: Literal["velocity", "prediction"] = Field("velocity", description="what the loss is taken of")
        min_coef: float = Field(0.05, ge=0, lt=0.5, description="alpha and sigma count as at least this in conversions")

    def __init__(self, config: Config, path: ProbPath, time_sampler: TimeSampler) -> None:
        self.config, self.path, self.time_sampler = config, path, time_sampler

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """The loss of a batch; one generator an item gives its time and its noise."""
        data = batch.tokens.values
        t = train_time(self.path, self.time_sampler(generators).to(data))
        return Loss(self.per_sample_loss(predict, batch, t, noise_like(batch, generators)).mean())

    def per_sample_loss(self, predict: Predict, batch: Batch, t: Tensor, noise: Tensor) -> Tensor:
        """The loss (B,) of each item at given times (B,) and noise (B, N, D)."""
        data = batch.tokens.values
        x_t = sample_x_t(self.path, noise, data, t)
        prediction = predict(batch.tokens.with_values(x_t), t, batch.condition).float()
        if self.config.loss_space == "prediction" or self.config.prediction == "velocity":
            target = self._target(noise, data, x_t, t)
        else:
            prediction = self.velocity(prediction, x_t, t)
            # converted alike, so that the floor does not ask for what cannot be answered
            target = self.velocity(self._target(noise, data, x_t, t), x_t, t)
        return per_sample_mse(prediction - target, batch.tokens.mask)

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """A prediction (B, N, D) at x and time (B,) as a velocity."""
        return convert_prediction(self.path, prediction, x, t, self.config.prediction, "velocity", self.config.min_coef)

    def _target(self, noise: Tensor, data: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self.config.prediction == "data":
            return data
        if self.config.prediction == "noise":
            return noise
        velocity = velocity_target(self.path, noise, data, t)
        return (
            velocity
            if self.config.prediction == "velocity"
            else convert_prediction(self.path, noise, x, t, "noise", "score", self.config.min_coef)
        )


def noise_like(batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, N, D) standard normal noise; each item's own length is drawn from its own generator (CPU), padding is 0."""
    values, mask = batch.tokens.values, batch.tokens.mask
    noise = torch.zeros(values.shape)
    lengths = [values.shape[1]] * len(noise) if mask is None else mask.sum(dim=1).tolist()
    for row, length, generator in zip(noise, lengths, generators, strict=True):
        row[:length].normal_(generator=generator)
    return noise.to(values)


def per_sample_mse(difference: Tensor, mask: Tensor | None) -> Tensor:
    """(B,) mean squared difference of each item's own real numbers."""
    squared = difference.square().mean(dim=-1)
    if mask is None:
        return squared.mean(dim=-1)
    return (squared * mask).sum(dim=-1) / mask.sum(dim=-1)
