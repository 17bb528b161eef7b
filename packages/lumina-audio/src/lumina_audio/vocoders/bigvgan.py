"""Vocoder BigVGAN, with weights of the model or of a published folder."""

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
    """Generator of BigVGAN (arXiv 2206.04658); its weights are part of the model, or those of a `source` folder."""

    class Config(GeneratorConfig):
        """Sizes of the generator; a `source` sets them."""

        sample_rate: int = Field(DEFAULT_SAMPLE_RATE, ge=1, description="samples per second")
        log_base: Literal["natural", "decimal"] = Field(
            "natural", description="logarithm of its training spectrograms; decimal: the released audio models"
        )
        source: str | None = Field(
            None, description="folder of a published generator: args.yml or config.json, and weights"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config if config.source is None else _config_from_source(config)
        self.sample_rate, self.n_mels = self.config.sample_rate, self.config.n_mels
        self.hop_length = math.prod(self.config.upsample_rates)
        self.generator = Generator(self.config) if config.source is None else FrozenModule(self._load)

    def forward(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) to (B, 1, T * hop_length) in [-1, 1].

        Raises:
            ShapeError: the spectrogram has another number of bands.
            CheckpointError: the weights of the source cannot be read.
        """
        check_shape(mel, (None, self.n_mels, None), "a batch of spectrograms")
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
    folder = Path(str(config.source)).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"source of audio.bigvgan: got {folder}, expected an existing folder of a generator")
    settings = {**read_options(folder), "source": config.source, "log_base": config.log_base}
    return BigVGAN.Config.read(settings, f"audio.bigvgan: {folder}")
