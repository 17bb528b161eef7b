"""Objectives other than flow matching: classification, pretraining of a conditioner, training of an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Predict, SupportsLoss
from lumina_core.types import Batch, Loss

DUPLICATE_MSE = 1e-5
"""Mean squared difference, on a scale of [-1, 1], below which two examples count as equal."""


class CrossEntropy:
    """Cross-entropy between class logits and class indices; the network sees clean tokens and no time."""

    class Config(Settings):
        """Options of the loss."""

        label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability spread evenly over all classes")

    def __init__(self, config: Config) -> None:
        self.config = config

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of a batch whose target holds class indices (B,); `accuracy` is a term.

        Raises:
            ConfigError: the batch has no target of this shape, or a class is outside the head's range.
        """
        target = batch.target
        if target is None or target.ndim != 1 or target.is_floating_point():
            got = "none" if target is None else f"{target.dtype} of shape {tuple(target.shape)}"
            raise ConfigError(
                f"batch.target: got {got}, expected class indices (B,). Use a prediction task whose `target_field` "
                "names a field of class indices."
            )
        logits = predict(batch.tokens, None, batch.condition).float()
        if int(target.min()) < 0 or int(target.max()) >= logits.shape[1]:
            raise ConfigError(
                f"batch.target: got classes {int(target.min())} to {int(target.max())}, expected 0 to "
                f"{logits.shape[1] - 1}. Set the head's num_classes."
            )
        total = F.cross_entropy(logits, target.long(), label_smoothing=self.config.label_smoothing)
        return Loss(total, {"accuracy": (logits.argmax(dim=1) == target).float().mean().detach()})

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Raise ConfigError: class logits have no velocity."""
        raise ConfigError("objective core.cross_entropy: got a request to generate. It trains a classifier.")


class ContrastivePretraining:
    """Pretraining of a conditioner without a backbone: its context predicts the data's tokens (our own proposal).

    The loss is the mean squared error of the prediction plus a contrastive term: cross-entropy of softmax over negative
    squared distances, with the right example as the positive and the batch, or the examples of `set_negatives`, as
    negatives. Examples equal to the right one are no negatives.
    """

    class Config(Settings):
        """Weights of the two terms."""

        contrastive_weight: float = Field(1.0, ge=0, description="weight of the contrastive term")
        inverse_temperature: float = Field(50.0, gt=0, description="factor of squared distances before the softmax")

    def __init__(self, config: Config) -> None:
        self.config = config
        self._negatives: Tensor | None = None

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of a batch; `predict` returns the conditioner's prediction (B, num_latents, target_dim).

        Raises:
            ConfigError: the prediction has another shape than the tokens, or tokens are padded.
        """
        if batch.tokens.mask is not None:
            raise ConfigError("objective core.contrastive_text: got data of several sizes, expected one size.")
        predicted = predict(batch.tokens, None, batch.condition)
        target = batch.tokens.values
        if predicted.shape != target.shape:
            raise ConfigError(
                f"conditioner: got predictions of shape {tuple(predicted.shape[1:])}, expected that of the tokens, "
                f"{tuple(target.shape[1:])}. Set num_latents and target_dim to these."
            )
        error = F.mse_loss(predicted, target)
        contrastive = self._contrastive_loss(predicted.flatten(1), target.flatten(1))
        total = error + self.config.contrastive_weight * contrastive
        return Loss(total, {"error": error.detach(), "contrast": contrastive.detach()})

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Raise ConfigError: the prediction has no velocity."""
        raise ConfigError("objective core.contrastive_text: got a request to generate. It trains a conditioner.")

    def set_negatives(self, values: Tensor) -> None:
        """Store clean tokens (M, N, D) of the data set as negatives."""
        self._negatives = values.flatten(1)

    def _contrastive_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        negatives = target if self._negatives is None else self._negatives.to(target)
        positive = -self.config.inverse_temperature * (predicted - target).square().mean(1)
        # mean squared distances, the measure of the first term
        distances = _pairwise_mse(predicted, negatives)
        is_duplicate = _pairwise_mse(target, negatives) < DUPLICATE_MSE
        negative_logits = (-self.config.inverse_temperature * distances).masked_fill(is_duplicate, float("-inf"))
        return (torch.cat([positive[:, None], negative_logits], dim=1).logsumexp(1) - positive).mean()


def _pairwise_mse(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute mean squared distances (B, M) between rows (B, D) and columns (M, D) with one matrix product."""
    products = rows @ columns.T / rows.shape[1]
    return rows.square().mean(1)[:, None] + columns.square().mean(1)[None] - 2 * products


class Reconstruction:
    """Training of an autoencoder by its own `loss`, which weights what matters in its data (edges, loudness)."""

    class Config(Settings):
        """No options: they belong to the autoencoder."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def autoencoder_loss(self, autoencoder: Any, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the autoencoder's loss of data (B, channels, ...) in [-1, 1].

        Raises:
            ConfigError: the autoencoder has no loss.
        """
        if not isinstance(autoencoder, SupportsLoss):
            raise ConfigError(
                f"autoencoder: got {type(autoencoder).__name__}, expected one with a method `loss`. Use an autoencoder "
                "that can be trained."
            )
        return autoencoder.loss(data, generators)

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Raise ConfigError: there is no loss on tokens."""
        raise ConfigError("objective core.reconstruction: got tokens, expected data. It trains an autoencoder alone.")

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Raise ConfigError: there is no velocity."""
        raise ConfigError("objective core.reconstruction: got a request to generate. It trains an autoencoder alone.")
