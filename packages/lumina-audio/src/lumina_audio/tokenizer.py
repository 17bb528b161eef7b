"""Latents of sounds <-> tokens: frames one after another, at (time, 0, 0)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.types import Size, Tokens, check_shape


class FramePatchify:
    """Cuts a latent along time. Rearranges numbers; has no weights. Places are (time, 0, 0), as the paper says."""

    class Config(Settings):
        """How long a token is."""

        patch_size: int = Field(1, ge=1, le=64, description="latent frames a token holds")
        channels: int = Field(20, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frames_per_token, self.channels = config.patch_size, config.channels

    @property
    def width(self) -> int:
        """Numbers a token holds: channels times its frames."""
        return self.channels * self.frames_per_token

    @property
    def patch_size(self) -> tuple[int]:
        """Latent frames that a token spans."""
        return (self.frames_per_token,)

    def patchify(self, latent: Tensor) -> Tokens:
        """(B, C, T) -> values (B, T / frame, C * frame), each vector in the order (channel, time).

        Raises:
            ShapeError: the channels are not the configured ones, or T is no multiple of the frame.
        """
        check_shape(latent, (None, self.channels, None), "the latent of a sound")
        batch, _, length = latent.shape
        count = self._num_tokens((length,))
        values = latent.reshape(batch, self.channels, count, self.frames_per_token).transpose(1, 2).flatten(2)
        return Tokens(values, _positions(batch, count, latent.device), ((length,),) * batch)

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """The exact inverse: tokens of one extent, without padding -> (B, C, T).

        Raises:
            ShapeError: the items have several lengths, or the count or width of the tokens does not fit theirs.
        """
        if len(set(tokens.sizes)) != 1:
            raise ShapeError(
                f"these tokens are of sounds of {len(set(tokens.sizes))} lengths; "
                "one latent holds one length: go through the items of Tokens.items()"
            )
        latent_size = tokens.sizes[0]
        count = self._num_tokens(latent_size)
        check_shape(tokens.values, (len(tokens.sizes), count, self.width), f"tokens of a latent {latent_size}")
        patches = tokens.values.reshape(-1, count, self.channels, self.frames_per_token).transpose(1, 2)
        return patches.reshape(-1, self.channels, *latent_size)

    def empty(self, batch: int, size: Size) -> Tokens:
        """Zeros at the places of a latent of `extent` = (T,)."""
        count = self._num_tokens(size)
        values = torch.zeros(batch, count, self.width)
        return Tokens(values, _positions(batch, count, values.device), (size,) * batch)

    def _num_tokens(self, latent_size: Size) -> int:
        if len(latent_size) != 1 or latent_size[0] < 1:
            raise ShapeError(f"{latent_size} is no length of a sound's latent; wanted (frames,), at least 1")
        count, remainder = divmod(latent_size[0], self.frames_per_token)
        if remainder:
            raise ShapeError(
                f"a latent of {latent_size[0]} frames cannot be cut into tokens of {self.frames_per_token}; "
                f"the next length that can: {(count + 1) * self.frames_per_token}"
            )
        return count


def _positions(batch: int, count: int, device: torch.device) -> Tensor:
    positions = torch.zeros(count, 3, device=device)
    positions[:, 0] = torch.arange(count, dtype=torch.float32, device=device)
    return positions.expand(batch, -1, -1)
