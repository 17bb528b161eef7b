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

from lumina_audio.general_midi import instruments
from lumina_audio.metrics.heard import Hearing
from lumina_audio.metrics.mels import SPECTROGRAM, log_mels

WIDTHS = (24, 48, 96, 160)
EMBEDDING, CLASSES = 128, 128
FILE = "data/classifier/classifier.safetensors"


class InstrumentNetwork(nn.Module):
    """Log-mel (B, 80, T) -> logits (B, 128) of General MIDI's programs; `embed` -> (B, 128) before the last layer.

    Plain convolutions over time and pitch, and at the end the mean and the strongest moment (as PANNs pool, arXiv
    1912.10211), so that any length will do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Layer(1, WIDTHS[0], (5, 7), (2, 4))
        pairs = [(WIDTHS[n], WIDTHS[n + 1]) for n in range(len(WIDTHS) - 1)]
        self.down = nn.ModuleList(_Layer(before, after, (3, 3), (2, 2)) for before, after in pairs)
        self.keep = nn.ModuleList(_Layer(after, after, (3, 3), (1, 1)) for _, after in pairs)
        self.embedding = nn.Linear(WIDTHS[-1], EMBEDDING)
        self.classes = nn.Linear(EMBEDDING, CLASSES)

    def embed(self, mel: Tensor) -> Tensor:
        """(B, 80, T) natural log-mel, T at least 4 -> (B, 128)."""
        x = self.stem(((mel - SPECTROGRAM.silence / 2) / 4)[:, None])
        for down, keep in zip(self.down, self.keep, strict=True):
            x = down(x)
            x = x + keep(x)
        moments = x.mean(2)
        embedding: Tensor = self.embedding(moments.mean(2) + moments.amax(2))
        return embedding

    def forward(self, mel: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classes(self.embed(mel).relu())
        return logits


class _Layer(nn.Module):
    """A convolution, its numbers brought to one scale, and a GELU."""

    def __init__(self, before: int, after: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        edges = (kernel[0] // 2, kernel[1] // 2)
        self.convolution = nn.Conv2d(before, after, kernel, stride, edges, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.convolution(x)))


class Classifier:
    """What the small network makes of a sound; its card, data/classifier/card.md, says how well it knows them."""

    class Config(Hearing):
        """What is taken of it."""

        gives: Literal["embedding", "classes"] = Field(
            "embedding", description="embedding: 128 numbers of unit length; classes: logits of the 128 programs"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._network, digest = _network()
        self.classes = tuple(program.name for program in instruments()) if config.gives == "classes" else ()
        self.name, self.key = "instrument classifier", f"{digest} {config.gives}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 128) float32."""
        rows = [self._row(mel) for mel in log_mels(items, self.config.rate)]
        return torch.cat(rows).clone()

    def _row(self, mel: Tensor) -> Tensor:
        if self.config.gives == "classes":
            logits: Tensor = self._network(mel)
            return logits
        return F.normalize(self._network.embed(mel), dim=1)


@functools.lru_cache(maxsize=1)
def _network() -> tuple[InstrumentNetwork, str]:
    with as_file(files("lumina_audio") / FILE) as path:
        weights, digest = load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()
    network = InstrumentNetwork()
    network.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
    return network.eval().requires_grad_(False), digest
