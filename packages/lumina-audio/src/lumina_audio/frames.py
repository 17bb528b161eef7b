"""Latents of sounds <-> tokens: frames one after another, at (time, 0, 0)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.types import Extent, Tokens, check_shape


class Frames:
    """Cuts a latent along time. Rearranges numbers; has no weights. Places are (time, 0, 0), as the paper says."""

    class Config(Settings):
        """How long a token is."""

        frame: int = Field(1, ge=1, le=64, description="latent frames a token holds")
        channels: int = Field(20, ge=1, description="channels of the latent")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frame, self.channels = config.frame, config.channels

    @property
    def width(self) -> int:
        """Numbers a token holds: channels times its frames."""
        return self.channels * self.frame

    @property
    def pitch(self) -> tuple[int]:
        """Latent frames that a token spans."""
        return (self.frame,)

    def tokens(self, latent: Tensor) -> Tokens:
        """(B, C, T) -> values (B, T / frame, C * frame), each vector in the order (channel, time).

        Raises:
            ShapeError: the channels are not the configured ones, or T is no multiple of the frame.
        """
        check_shape(latent, (None, self.channels, None), "the latent of a sound")
        batch, _, length = latent.shape
        count = self._count((length,))
        values = latent.reshape(batch, self.channels, count, self.frame).transpose(1, 2).flatten(2)
        return Tokens(values, _places(batch, count, latent.device), ((length,),) * batch)

    def latent(self, tokens: Tokens) -> Tensor:
        """The exact inverse: tokens of one extent, without padding -> (B, C, T).

        Raises:
            ShapeError: the items have several lengths, or the count or width of the tokens does not fit theirs.
        """
        if len(set(tokens.extents)) != 1:
            raise ShapeError(
                f"these tokens are of sounds of {len(set(tokens.extents))} lengths; "
                "one latent holds one length: go through the items of Tokens.items()"
            )
        extent = tokens.extents[0]
        count = self._count(extent)
        check_shape(tokens.values, (len(tokens.extents), count, self.width), f"tokens of a latent {extent}")
        cut = tokens.values.reshape(-1, count, self.channels, self.frame).transpose(1, 2)
        return cut.reshape(-1, self.channels, *extent)

    def blank(self, batch: int, extent: Extent) -> Tokens:
        """Zeros at the places of a latent of `extent` = (T,)."""
        count = self._count(extent)
        values = torch.zeros(batch, count, self.width)
        return Tokens(values, _places(batch, count, values.device), (extent,) * batch)

    def _count(self, extent: Extent) -> int:
        if len(extent) != 1 or extent[0] < 1:
            raise ShapeError(f"{extent} is no length of a sound's latent; wanted (frames,), at least 1")
        count, rest = divmod(extent[0], self.frame)
        if rest:
            raise ShapeError(
                f"a latent of {extent[0]} frames cannot be cut into tokens of {self.frame}; "
                f"the next length that can: {(count + 1) * self.frame}"
            )
        return count


def _places(batch: int, count: int, device: torch.device) -> Tensor:
    table = torch.zeros(count, 3, device=device)
    table[:, 0] = torch.arange(count, dtype=torch.float32, device=device)
    return table.expand(batch, -1, -1)
