"""Classification head: pooling over the real tokens of each image, then a linear classifier."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.models.attention import Segments
from lumina_core.models.layers import Linear
from lumina_core.protocols import Component
from lumina_core.types import BackboneOutput, Tokens


class ClassificationHead(Component, nn.Module):
    """Pool hidden states over the real tokens, normalize (LayerNorm, eps 1e-6), and classify.

    `mean` is the average of the tokens. `attention` is a weighted average: each head has its own weights, the softmax
    of a linear score of the normalized tokens, and averages its own channels; it begins as the mean.
    """

    class Config(Settings):
        """Classes and pooling; the width is filled in when a model is built."""

        num_classes: int = Field(ge=0, description="number of classes K; 0: pooled features instead of logits")
        pooling: Literal["mean", "attention"] = Field("mean", description="average of tokens, or a learned average")
        num_heads: int = Field(4, ge=1, description="heads of the attention pooling; they divide the width")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the pooled features in training")
        hidden_size: int = Field(0, ge=0, description="width of the backbone; filled in")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not config.hidden_size:
            raise ConfigError("head recog.classification: got hidden_size 0, expected the backbone's width.")
        if config.hidden_size % config.num_heads and config.pooling == "attention":
            raise ConfigError(
                f"head recog.classification num_heads: got {config.num_heads}, expected a divisor of the width "
                f"{config.hidden_size}."
            )
        self.config = config
        self.score: Linear | None = None
        if config.pooling == "attention":
            self.score = Linear(config.hidden_size, config.num_heads, bias=False)
            nn.init.zeros_(self.score.weight)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.linear: nn.Module = nn.Identity()
        self.reset(config.num_classes)

    def reset(self, num_classes: int) -> None:
        """Replace the classifier by a new one, zero-initialized; 0 removes it."""
        if not num_classes:
            self.linear = nn.Identity()
            return
        weight = self.norm.weight
        self.linear = Linear(self.config.hidden_size, num_classes, device=weight.device, dtype=weight.dtype)
        self.linear.train(self.training)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: BackboneOutput, tokens: Tokens) -> Tensor:
        """Map hidden states (B, N, W) to class logits (B, K)."""
        return self.classify(self.pool(hidden.hidden_states, tokens.mask))

    def classify(self, pooled: Tensor) -> Tensor:
        """Map pooled features (B, W) to class logits (B, K); the features themselves without classes."""
        logits: Tensor = self.linear(F.dropout(pooled, self.config.dropout, self.training))
        return logits

    def pool(self, states: Tensor, mask: Tensor | Segments | None) -> Tensor:
        """Pool hidden states (B, N, W) to normalized features (B, W).

        Args:
            states: output of the backbone.
            mask: (B, N) bool, True for real tokens; None: all are real; `Segments`: one row of features per sequence.
        """
        if isinstance(mask, Segments):
            pieces = states[0, : sum(mask.lengths)].split(list(mask.lengths))
            pooled = torch.cat([self._average(piece[None], None) for piece in pieces])
        else:
            pooled = self._average(states, mask)
        normed: Tensor = self.norm(pooled)
        return normed

    def weights(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the weight of every token in every head's average, (B, N, heads); they sum to 1 over the tokens."""
        if self.score is None:
            scores = torch.zeros_like(states[..., :1])
        else:
            scores = self.score(F.layer_norm(states, states.shape[-1:], eps=1e-6))
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], float("-inf"))
        weights: Tensor = scores.softmax(dim=1)
        return weights

    def _average(self, states: Tensor, mask: Tensor | None) -> Tensor:
        weights = self.weights(states, mask)
        heads = states.unflatten(-1, (weights.shape[-1], -1))
        average: Tensor = (heads * weights[..., None]).sum(dim=1)
        return average.flatten(1)

    def no_muon(self) -> set[str]:
        """Return the names of matrices that Muon does not train: the scores and the output layer."""
        return {"linear.weight", "score.weight"}
