"""The head of a generator: hidden -> one vector a token, as wide as the token."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.layers import Linear, linear
from lumina_core.types import BackboneOutput, Tokens


class VelocityHead(nn.Module):
    """LayerNorm without weights (eps 1e-6), a scale from the modulation, a linear layer that starts at zero.

    As published (FinalLayer). `learn_sigma` doubles the output as the published weights do; the second half was never
    trained to mean anything and is not computed.
    """

    class Config(Settings):
        """The widths are filled in when a model is built."""

        learn_sigma: bool = Field(False, description="keep room for the published weights' unused second half")
        shift: bool = Field(False, description="shift as well as scale, as in the published ImageNet and sound models")
        hidden_size: int = Field(0, ge=0, description="the backbone's; filled in")
        token_dim: int = Field(0, ge=0, description="the tokenizer's; filled in")
        modulation_dim: int = Field(0, ge=0, description="the backbone's; filled in")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not (config.hidden_size and config.token_dim and config.modulation_dim):
            raise ConfigError(
                "core.velocity: hidden_size, token_dim and modulation_dim come from the other parts; one is 0"
            )
        self.config = config
        self.modulation = Linear(config.modulation_dim, (2 if config.shift else 1) * config.hidden_size)
        self.linear = Linear(config.hidden_size, (2 if config.learn_sigma else 1) * config.token_dim)
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: BackboneOutput, tokens: Tokens) -> Tensor:
        """hidden (B, N, W) and modulation (B, A) -> (B, N, D), in the order of the tokens' numbers."""
        if hidden.modulation is None:
            raise ShapeError("core.velocity needs a timed backbone (its modulation); this one gives none")
        normed = F.layer_norm(hidden.hidden_states, (self.config.hidden_size,), eps=1e-6)
        modulation = self.modulation(F.silu(hidden.modulation))[:, None]
        if self.config.shift:
            shift, scale = modulation.chunk(2, dim=-1)
            normed = normed * (1 + scale) + shift
        else:
            normed = normed * (1 + modulation)
        token_dim = self.config.token_dim
        return linear(normed, self.linear.weight[:token_dim], self.linear.bias[:token_dim])
