"""Audio latents <-> tokens: consecutive frames, at positions (time, 0, 0)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Tokenizer
from lumina_core.types import Size, Tokens, check_shape


class FramePatchify(Tokenizer):
    """Tokenizer that cuts a latent (B, C, T) into patches along time; it has no weights."""

    class Config(Settings):
        """Size of a token."""

        patch_size: int = Field(1, ge=1, le=64, description="latent frames per token")
        channels: int = Field(20, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.channels = config.channels
        self.patch_size = (config.patch_size,)
        self.width = config.channels * config.patch_size

    def patchify(self, latent: Tensor) -> Tokens:
        """Convert a latent (B, C, T) to tokens with values (B, T / patch, C * patch), ordered (channel, time).

        Raises:
            ShapeError: C differs from the config, or T is no multiple of the patch size.
        """
        check_shape(latent, (None, self.channels, None), "an audio latent")
        batch, _, length = latent.shape
        count = self._num_tokens((length,))
        values = latent.reshape(batch, self.channels, count, self.config.patch_size).transpose(1, 2).flatten(2)
        return Tokens(values, _positions(batch, count, latent.device), ((length,),) * batch)

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Convert tokens of one size, without padding, to a latent (B, C, T): the exact inverse of `patchify`.

        Raises:
            ShapeError: the items have several lengths, or the shape of the values does not match them.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"tokens: got {len(set(tokens.sizes))} lengths, expected one per latent. Iterate over Tokens.items()."
            )
        latent_size = tokens.sizes[0]
        count = self._num_tokens(latent_size)
        check_shape(tokens.values, (len(tokens.sizes), count, self.width), f"tokens of a latent {latent_size}")
        patches = tokens.values.reshape(-1, count, self.channels, self.config.patch_size).transpose(1, 2)
        return patches.reshape(-1, self.channels, *latent_size)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Create tokens of zeros with the positions of a latent of `size` = (T,)."""
        count = self._num_tokens(size)
        values = torch.zeros(batch, count, self.width)
        return Tokens(values, _positions(batch, count, values.device), (size,) * batch)

    def _num_tokens(self, latent_size: Size) -> int:
        if len(latent_size) != 1 or latent_size[0] < 1:
            raise ShapeError(f"size of an audio latent: got {latent_size}, expected (frames,) with at least 1 frame")
        patch_size = self.config.patch_size
        count, remainder = divmod(latent_size[0], patch_size)
        if remainder:
            raise ShapeError(
                f"audio latent: got {latent_size[0]} frames, expected a multiple of {patch_size}, such as "
                f"{(count + 1) * patch_size}"
            )
        return count


def _positions(batch: int, count: int, device: torch.device) -> Tensor:
    positions = torch.zeros(count, 3, device=device)
    positions[:, 0] = torch.arange(count, dtype=torch.float32, device=device)
    return positions.expand(batch, -1, -1)
