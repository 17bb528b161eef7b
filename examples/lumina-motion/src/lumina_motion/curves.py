"""Tokenizer of curves: (B, 2, moments) <-> tokens of consecutive moments at (time, 0, 0)."""

import torch
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder, Tokenizer
from lumina_core.types import Tokens


class Frames(Tokenizer):
    """Cuts a curve into frames. Rearranges numbers; has no weights."""

    class Config(Settings):
        frame: int = Field(4, ge=1, le=64, description="moments a token holds")

    def __init__(self, config):
        self.frame, self.width = config.frame, 2 * config.frame

    def patchify(self, latent):
        blank = self.empty(len(latent), tuple(latent.shape[2:]))
        return blank.with_values(latent.unflatten(2, (-1, self.frame)).transpose(1, 2).flatten(2))

    def unpatchify(self, tokens):
        return tokens.values.unflatten(2, (2, self.frame)).transpose(1, 2).flatten(2)

    def empty(self, batch, size):
        count, rest = divmod(size[0], self.frame)
        if rest:
            raise ShapeError(
                f"{size[0]} moments cannot be cut in frames of {self.frame}; try {count * self.frame + self.frame}"
            )
        positions = torch.nn.functional.pad(torch.arange(float(count))[:, None], (0, 2))
        return Tokens(torch.zeros(batch, count, self.width), positions.expand(batch, -1, -1), (size,) * batch)


class Places(Autoencoder):
    """Places in the plane, within [-1, 1], are their own latent; their spread is about one half."""

    Config, channels, downsample_factor = Settings, 2, (1,)

    def __init__(self, config): ...

    def encode(self, data):
        return data

    decode = encode
