"""Which instrument is heard: a small network that was taught here the 128 programs of the built-in data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_audio.metrics.mel_features import MEL_CONFIG, batched_log_mels
from lumina_audio.metrics.preprocess import AudioFeatureConfig
from lumina_core.protocols import FeatureExtractor

CHANNELS = (24, 48, 96, 160)
EMBEDDING_DIM, NUM_CLASSES = 128, 128
WEIGHTS_FILE = "data/classifier/classifier.safetensors"


class InstrumentCNN(nn.Module):
    """Log-mel (B, 80, T) -> logits (B, 128) of General MIDI's programs; `embed` -> (B, 128) before the last layer.

    Plain convolutions over time and pitch, and at the end the mean and the strongest moment (as PANNs pool, arXiv
    1912.10211), so that any length will do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvBlock(1, CHANNELS[0], (5, 7), (2, 4))
        pairs = [(CHANNELS[n], CHANNELS[n + 1]) for n in range(len(CHANNELS) - 1)]
        self.down = nn.ModuleList(
            _ConvBlock(in_channels, out_channels, (3, 3), (2, 2)) for in_channels, out_channels in pairs
        )
        self.keep = nn.ModuleList(_ConvBlock(out_channels, out_channels, (3, 3), (1, 1)) for _, out_channels in pairs)
        self.embedding = nn.Linear(CHANNELS[-1], EMBEDDING_DIM)
        self.classes = nn.Linear(EMBEDDING_DIM, NUM_CLASSES)

    def embed(self, mel: Tensor) -> Tensor:
        """(B, 80, T) natural log-mel, T at least 4 -> (B, 128)."""
        x = self.stem(((mel - MEL_CONFIG.min_value / 2) / 4)[:, None])
        for down, keep in zip(self.down, self.keep, strict=True):
            x = down(x)
            x = x + keep(x)
        frames = x.mean(2)
        embedding: Tensor = self.embedding(frames.mean(2) + frames.amax(2))
        return embedding

    def forward(self, mel: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classes(self.embed(mel).relu())
        return logits


class _ConvBlock(nn.Module):
    """A convolution, its numbers brought to one scale, and a GELU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.convolution(x)))


class InstrumentClassifierFeatures(FeatureExtractor):
    """What the small network makes of a sound; its card, data/classifier/card.md, says how well it knows them."""

    class Config(AudioFeatureConfig):
        """What is taken of it."""

        output: Literal["embedding", "classes"] = Field(
            "embedding", description="embedding: 128 numbers of unit length; classes: logits of the 128 programs"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._network, digest = _load_network()
        self.classes = tuple(program.name for program in instruments()) if config.output == "classes" else ()
        self.name, self.key = "instrument classifier", f"{digest} {config.output}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 128) float32."""
        rows = [self._row(mel) for mel in batched_log_mels(items, self.config.sample_rate)]
        return torch.cat(rows).clone()

    def _row(self, mel: Tensor) -> Tensor:
        if self.config.output == "classes":
            logits: Tensor = self._network(mel)
            return logits
        return F.normalize(self._network.embed(mel), dim=1)


@functools.lru_cache(maxsize=1)
def _load_network() -> tuple[InstrumentCNN, str]:
    with as_file(files("lumina_audio") / WEIGHTS_FILE) as path:
        weights, digest = load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()
    network = InstrumentCNN()
    network.load_state_dict(
        {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}
    )
    return network.eval().requires_grad_(False), digest
