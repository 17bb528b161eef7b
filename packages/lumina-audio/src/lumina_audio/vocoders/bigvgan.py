"""The vocoder BigVGAN (arXiv 2206.04658), with weights of the model or of a published folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.vocoders.bigvgan_checkpoint import DEFAULT_SAMPLE_RATE, open_generator, read_options
from lumina_audio.vocoders.bigvgan_model import Generator, GeneratorConfig
from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.errors import CheckpointError
from lumina_core.pretrained import FrozenModule
from lumina_core.types import check_shape


class BigVGAN(nn.Module):
    """Log-mel spectrograms -> waveforms by BigVGAN's generator; its weights are the model's, or a folder's."""

    class Config(GeneratorConfig):
        """Sizes, which a `source` says by itself."""

        sample_rate: int = Field(DEFAULT_SAMPLE_RATE, ge=1, description="samples a second")
        log_base: Literal["natural", "decimal"] = Field(
            "natural", description="of the spectrograms that it was taught with; decimal: as the released sound models"
        )
        source: str | None = Field(
            None, description="folder of a published generator (args.yml or config.json, and its weights)"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config if config.source is None else _config_from_source(config)
        self.sample_rate, self.n_mels, self.hop_length = (
            self.config.sample_rate,
            self.config.n_mels,
            math.prod(self.config.upsample_rates),
        )
        self.generator = Generator(self.config) if config.source is None else FrozenModule(self._load)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, bands, T), natural logarithms -> (B, 1, T * hop) in [-1, 1].

        Raises:
            ShapeError: the mel has other bands.
            CheckpointError: the weights of a source cannot be read.
        """
        check_shape(mel, (None, self.n_mels, None), "the mel of a vocoder")
        network = self.generator.network() if isinstance(self.generator, FrozenModule) else self.generator
        waveform: Tensor = network(mel if self.config.log_base == "natural" else mel / math.log(10))
        return waveform

    def _load(self, device: torch.device) -> nn.Module:
        folder = Path(str(self.config.source)).expanduser()
        weights = open_generator(folder, self.config)
        with init_empty_weights():
            network = Generator(self.config)
        state_dict = {name: tensor.load() for name, tensor in weights.items()}
        network.load_state_dict(state_dict, assign=True)
        return network.to(device)


def _config_from_source(config: BigVGAN.Config) -> BigVGAN.Config:
    """The sizes that a source says, the logarithm that is asked."""
    folder = Path(str(config.source)).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"audio.bigvgan: there is no folder {folder}; name a published generator's")
    settings = {**read_options(folder), "source": config.source, "log_base": config.log_base}
    return BigVGAN.Config.read(settings, f"audio.bigvgan: {folder}")
