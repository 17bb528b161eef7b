"""Flow matching: loss between a prediction at x_t and its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.flow.path import PredictionType, convert_prediction, sample_x_t, train_time, velocity_target
from lumina_core.protocols import Coupling, Predict, ProbPath, TimeSampler
from lumina_core.types import Batch, Loss


class FlowMatching:
    """Flow matching objective of Lumina-Next, with the prediction types velocity, data, noise and score.

    The loss of an item is the mean over its real tokens, the loss of a batch the mean over its items, as published.
    With `loss_space: velocity`, a prediction is converted to a velocity before the comparison; with `prediction: data`
    that is the x-prediction of JiT (arXiv 2511.13720).
    """

    class Config(Settings):
        """Prediction type, space of the loss, path, distribution of times, coupling."""

        path: ComponentSpec = Field(ComponentSpec(type="core.linear"), description="probability path: x_t of t")
        time_sampler: ComponentSpec = Field(ComponentSpec(type="core.uniform"), description="distribution of times")
        coupling: ComponentSpec | None = Field(None, description="pairs of noise and data; None: independent")
        prediction: PredictionType = Field("velocity", description="output of the network")
        loss_space: Literal["velocity", "prediction"] = Field(
            "velocity", description="space of the loss; velocity: predictions are converted to velocities first"
        )
        min_coef: float = Field(0.05, ge=0, lt=0.5, description="lower bound of alpha and sigma in conversions")

    def __init__(
        self, config: Config, path: ProbPath, time_sampler: TimeSampler, coupling: Coupling | None = None
    ) -> None:
        self.config, self.path, self.time_sampler, self.coupling = config, path, time_sampler, coupling

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of a batch at random times and noise; the generator of an item draws both."""
        data = batch.tokens.values
        t = train_time(self.path, self.time_sampler(generators).to(data))
        noise = noise_like(batch, generators)
        if self.coupling is not None:
            noise = self.coupling(noise, batch.tokens)
        return Loss(self.per_sample_loss(predict, batch, t, noise).mean())

    def per_sample_loss(self, predict: Predict, batch: Batch, t: Tensor, noise: Tensor) -> Tensor:
        """Compute the loss (B,) of each item at times (B,) and noise (B, N, D)."""
        data = batch.tokens.values
        x_t = sample_x_t(self.path, noise, data, t)
        prediction = predict(batch.tokens.with_values(x_t), t, batch.condition).float()
        target = self._target(noise, data, x_t, t)
        if self.config.loss_space == "velocity" and self.config.prediction != "velocity":
            # the target is converted too, with the same lower bound of the coefficients: a perfect prediction costs 0
            prediction, target = self.velocity(prediction, x_t, t), self.velocity(target, x_t, t)
        return per_sample_mse(prediction - target, batch.tokens.mask)

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Convert a prediction (B, N, D) at x and time (B,) to a velocity."""
        return convert_prediction(self.path, prediction, x, t, self.config.prediction, "velocity", self.config.min_coef)

    def _target(self, noise: Tensor, data: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self.config.prediction == "data":
            return data
        if self.config.prediction == "noise":
            return noise
        if self.config.prediction == "velocity":
            return velocity_target(self.path, noise, data, t)
        return convert_prediction(self.path, noise, x, t, "noise", "score", self.config.min_coef)


def noise_like(batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw standard normal noise (B, N, D), the real tokens of an item by its generator (CPU); padding is zero."""
    values, mask = batch.tokens.values, batch.tokens.mask
    noise = torch.zeros(values.shape)
    lengths = [values.shape[1]] * len(noise) if mask is None else mask.sum(dim=1).tolist()
    for row, length, generator in zip(noise, lengths, generators, strict=True):
        row[:length].normal_(generator=generator)
    return noise.to(values)


def per_sample_mse(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the mean square (B,) of a difference (B, N, D) over the real tokens of each item."""
    squared = difference.square().mean(dim=-1)
    if mask is None:
        return squared.mean(dim=-1)
    return (squared * mask).sum(dim=-1) / mask.sum(dim=-1)
