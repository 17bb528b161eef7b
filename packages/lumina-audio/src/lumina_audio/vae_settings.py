"""Sizes of the autoencoder of spectrograms."""

from __future__ import annotations

from pydantic import Field, model_validator

from lumina_core.config import Config


class VaeSettings(Config):
    """Sizes; the defaults are the published ones (384 wide, 80 bands to 20 channels, one halving of time)."""

    channels: int = Field(20, ge=1, le=1024, description="channels of the latent")
    inner: int = Field(20, ge=1, le=1024, description="channels before the last convolution of one sample")
    width: int = Field(384, ge=32, multiple_of=32, description="channels of the outermost level")
    growth: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="of the width, level by level")
    blocks: int = Field(2, ge=1, le=8, description="residual blocks of a level; the decoder has one more")
    kernel: int = Field(5, ge=1, le=31, description="samples that a convolution of the encoder sees; odd")
    halved: tuple[int, ...] = Field((0,), description="levels of the encoder after which time is halved")
    attended: tuple[int, ...] = Field((), description="levels with attention, besides the middle")

    @model_validator(mode="after")
    def _fits(self) -> VaeSettings:
        if self.kernel % 2 == 0:
            raise ValueError(f"a kernel is odd, so that it has a middle; got {self.kernel}")
        last = len(self.growth) - 1
        beyond = [level for level in self.halved if not 0 <= level < last]
        if beyond:
            raise ValueError(f"time is halved between levels, so after one of 0..{last - 1}; got {beyond[0]}")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels level by level."""
        return tuple(self.width * growth for growth in self.growth)

    @property
    def stride(self) -> int:
        """Frames of the spectrogram a frame of the latent stands for."""
        return 1 << len(self.halved)
