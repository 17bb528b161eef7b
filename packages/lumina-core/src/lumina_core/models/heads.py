"""Heads: from hidden states to a velocity per token, or to class logits."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.layers import Linear
from lumina_core.protocols import Component
from lumina_core.types import BackboneOutput, Tokens


class VelocityHead(Component, nn.Module):
    """LayerNorm without weights (eps 1e-6), a scale from the modulation, and a zero-initialized linear layer.

    As published (FinalLayer). `learn_sigma` doubles the output as in the published weights, whose second half was never
    trained and is dropped.
    """

    class Config(Settings):
        """Widths are filled in when a model is built."""

        learn_sigma: bool = Field(False, description="keep the unused second half of the published weights")
        shift: bool = Field(False, description="shift as well as scale, as in the published ImageNet and sound models")
        hidden_size: int = Field(0, ge=0, description="the backbone's; filled in")
        token_dim: int = Field(0, ge=0, description="the tokenizer's; filled in")
        modulation_dim: int = Field(0, ge=0, description="the backbone's; filled in")

    def __init__(self, config: Config) -> None:
        super().__init__()
        for name in ("hidden_size", "token_dim", "modulation_dim"):
            if not dict(config)[name]:
                raise ConfigError(
                    f"core.velocity {name}: got 0, expected the width that the backbone or the tokenizer decides. A "
                    "recipe fills it in; a backbone without time has no modulation."
                )
        self.config = config
        self.modulation = Linear(config.modulation_dim, (2 if config.shift else 1) * config.hidden_size)
        self.linear = Linear(config.hidden_size, (2 if config.learn_sigma else 1) * config.token_dim)
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: BackboneOutput, tokens: Tokens) -> Tensor:
        """Map hidden states (B, N, C) and modulation (B, A) to (B, N, token_dim).

        Raises:
            ShapeError: the backbone gives no modulation.
        """
        if hidden.modulation is None:
            raise ShapeError("core.velocity: got no modulation, expected that of a time-conditioned backbone")
        normed = F.layer_norm(hidden.hidden_states, (self.config.hidden_size,), eps=1e-6)
        modulation = self.modulation(F.silu(hidden.modulation))[:, None]
        if self.config.shift:
            shift, scale = modulation.chunk(2, dim=-1)
            normed = normed * (1 + scale) + shift
        else:
            normed = normed * (1 + modulation)
        output: Tensor = self.linear(normed)[..., : self.config.token_dim]
        return output

    def no_muon(self) -> set[str]:
        """Return the names of matrices that Muon does not train: both layers."""
        return {"modulation.weight", "linear.weight"}


class ClassificationHead(Component, nn.Module):
    """Linear classifier on the mean of the real tokens' hidden states, after a LayerNorm (eps 1e-6)."""

    class Config(Settings):
        """Number of classes; the width is filled in when a model is built."""

        num_classes: int = Field(ge=2, description="number of classes K")
        hidden_size: int = Field(0, ge=0, description="width of the backbone; filled in")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not config.hidden_size:
            raise ConfigError("head core.classification: got hidden_size 0, expected the backbone's width.")
        self.config = config
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.linear = Linear(config.hidden_size, config.num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: BackboneOutput, tokens: Tokens) -> Tensor:
        """Map hidden states (B, N, W) to class logits (B, K)."""
        states = hidden.hidden_states
        if tokens.mask is None:
            pooled = states.mean(dim=1)
        else:
            weights = tokens.mask.to(states.dtype)[..., None]
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        logits: Tensor = self.linear(self.norm(pooled))
        return logits

    def no_muon(self) -> set[str]:
        """Return the names of matrices that Muon does not train: the output layer."""
        return {"linear.weight"}
