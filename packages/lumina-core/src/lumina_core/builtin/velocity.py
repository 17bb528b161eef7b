"""The head of a generator: hidden -> one vector a token, as wide as the token."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.nn.linear import Linear, linear
from lumina_core.types import Hidden, Tokens


class VelocityHead(nn.Module):
    """LayerNorm without weights (eps 1e-6), a scale from the modulation, a linear layer that starts at zero.

    As published (FinalLayer). `learn_sigma` doubles the output as the published weights do; the second half was never
    trained to mean anything and is not computed.
    """

    class Config(Settings):
        """The widths are filled in when a model is built."""

        learn_sigma: bool = Field(False, description="keep room for the published weights' unused second half")
        shift: bool = Field(False, description="shift as well as scale, as in the published ImageNet and sound models")
        width: int = Field(0, ge=0, description="the backbone's; filled in")
        token_width: int = Field(0, ge=0, description="the tokenizer's; filled in")
        modulation_width: int = Field(0, ge=0, description="the backbone's; filled in")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not (config.width and config.token_width and config.modulation_width):
            raise ConfigError(
                "core.velocity: width, token_width and modulation_width come from the other parts; one is 0"
            )
        self.config = config
        self.modulation = Linear(config.modulation_width, (2 if config.shift else 1) * config.width)
        self.linear = Linear(config.width, (2 if config.learn_sigma else 1) * config.token_width)
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Hidden, tokens: Tokens) -> Tensor:
        """hidden (B, N, W) and modulation (B, A) -> (B, N, D), in the order of the tokens' numbers."""
        if hidden.modulation is None:
            raise ShapeError("core.velocity needs a timed backbone (its modulation); this one gives none")
        normed = F.layer_norm(hidden.values, (self.config.width,), eps=1e-6)
        said = self.modulation(F.silu(hidden.modulation))[:, None]
        if self.config.shift:
            shift, scale = said.chunk(2, dim=-1)
            normed = normed * (1 + scale) + shift
        else:
            normed = normed * (1 + said)
        width = self.config.token_width
        return linear(normed, self.linear.weight[:width], self.linear.bias[:width])
