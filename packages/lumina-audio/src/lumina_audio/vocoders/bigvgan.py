"""The vocoder BigVGAN (arXiv 2206.04658), with weights of the model or of a published folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.vocoders.bigvgan_files import RATE, open_generator, options
from lumina_audio.vocoders.generator import Generator, Shape
from lumina_core.errors import CheckpointError
from lumina_core.outside import Borrowed
from lumina_core.types import check_shape
from lumina_core.weights.unfilled import unfilled


class BigVGAN(nn.Module):
    """Log-mel spectrograms -> waveforms by BigVGAN's generator; its weights are the model's, or a folder's."""

    class Config(Shape):
        """Sizes, which a `source` says by itself."""

        rate: int = Field(RATE, ge=1, description="samples a second")
        logarithm: Literal["natural", "decimal"] = Field(
            "natural", description="of the spectrograms that it was taught with; decimal: as the released sound models"
        )
        source: str | None = Field(
            None, description="folder of a published generator (args.yml or config.json, and its weights)"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config if config.source is None else _told(config)
        self.rate, self.bands, self.hop = self.config.rate, self.config.bands, math.prod(self.config.rates)
        self.generator = Generator(self.config) if config.source is None else Borrowed(self._load)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, bands, T), natural logarithms -> (B, 1, T * hop) in [-1, 1].

        Raises:
            ShapeError: the mel has other bands.
            CheckpointError: the weights of a source cannot be read.
        """
        check_shape(mel, (None, self.bands, None), "the mel of a vocoder")
        network = self.generator.network() if isinstance(self.generator, Borrowed) else self.generator
        sound: Tensor = network(mel if self.config.logarithm == "natural" else mel / math.log(10))
        return sound

    def _load(self, device: torch.device) -> nn.Module:
        folder = Path(str(self.config.source)).expanduser()
        weights = open_generator(folder, self.config)
        with unfilled():
            network = Generator(self.config)
        filled = {name: piece.tensor() for name, piece in weights.items()}
        network.load_state_dict(filled, assign=True)
        return network.to(device)


def _told(config: BigVGAN.Config) -> BigVGAN.Config:
    """The sizes that a source says, the logarithm that is asked."""
    folder = Path(str(config.source)).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"audio.bigvgan: there is no folder {folder}; name a published generator's")
    said = {**options(folder), "source": config.source, "logarithm": config.logarithm}
    return BigVGAN.Config.read(said, f"audio.bigvgan: {folder}")
