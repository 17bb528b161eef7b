"""VGGish, the network of the Frechet audio distance: from a file of its published weights, with its own front end."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.borrowed import FromFile, Weights, weights_of
from lumina_audio.metrics.heard import heard
from lumina_core.measures.batches import of_one_size

RATE, WINDOW, HOP, FFT = 16000, 400, 160, 512
BANDS, LOW, HIGH, OFFSET = 64, 125.0, 7500.0, 0.01
FRAMES = 96
"""Of a patch: 0.96 s."""
CONVOLUTIONS, POOLED, DENSE = (0, 3, 6, 8, 11, 13), (0, 3, 8, 13), (0, 2, 4)
"""Places of the layers in the published file, and after which of them one in four is kept."""
CHUNK = 16


class VGGish:
    """The 128 numbers of VGGish for each 0.96 s (Hershey et al., arXiv 1609.09430), before the last ReLU.

    As in AudioLDM's evaluation, without the PCA of the published embeddings. The weights are those of the repository
    harritaylor/torchvggish (vggish-10086976.pth), themselves converted from TensorFlow's. A row is its patches one
    after another, and a distance between sets takes each patch as a sample (`pieces`), as the FAD does.
    """

    name = "VGGish"

    class Config(FromFile):
        """The file of its weights, and how much of each sound is heard."""

        patches: int = Field(
            2, ge=1, le=64, description="of 0.96 s; what is longer is cut, what is shorter has silence"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.pieces = config, config.patches
        self._weights = weights_of(config.weights, "VGGish (torchvggish)", config.device)
        for place in CONVOLUTIONS:
            self._weights.layer(f"features.{place}", 4)
        for place in DENSE:
            self._weights.layer(f"embeddings.{place}", 2)
        self.key = f"vggish {self._weights.digest} {config.patches}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, patches * 128) float32."""
        length = WINDOW + HOP * (FRAMES * self.config.patches - 1)
        cut = [F.pad(item, (0, max(0, length - item.shape[-1])))[:, :length] for item in self._heard(items)]
        rows = [
            _embedded(self._weights, _patches(part[:, 0].to(self.config.device))) for part in of_one_size(cut, CHUNK)
        ]
        return torch.cat([row.reshape(-1, self.config.patches * row.shape[1]).cpu() for row in rows]).clone()

    def _heard(self, items: Sequence[Tensor]) -> list[Tensor]:
        return heard(items, self.config.rate, RATE)


def _patches(waveform: Tensor) -> Tensor:
    """(B, S) -> log-mel patches (B * patches, 1, 96, 64)."""
    frames = waveform.unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW, device=waveform.device)
    mel = torch.fft.rfft(frames, FFT).abs() @ _bank().to(waveform.device)
    patches: Tensor = (mel + OFFSET).log().reshape(-1, 1, FRAMES, BANDS)
    return patches


def _embedded(weights: Weights, patches: Tensor) -> Tensor:
    x = patches
    for place in CONVOLUTIONS:
        x = F.conv2d(x, *weights.layer(f"features.{place}", 4), padding=1).relu()
        x = F.max_pool2d(x, 2) if place in POOLED else x
    x = x.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: time, band, channel
    for place in DENSE:
        x = F.linear(x, *weights.layer(f"embeddings.{place}", 2))
        x = x.relu() if place != DENSE[-1] else x
    return x


@functools.lru_cache(maxsize=1)
def _bank() -> Tensor:
    """(257, 64): triangles that are straight on the HTK mel scale, not in Hz, as AudioSet's front end has them."""
    places = _mel(torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64))
    edges = torch.linspace(float(_mel(torch.tensor(LOW))), float(_mel(torch.tensor(HIGH))), BANDS + 2)
    low, middle, high = edges[:-2].double(), edges[1:-1].double(), edges[2:].double()
    rising = (places[:, None] - low) / (middle - low)
    falling = (high - places[:, None]) / (high - middle)
    bank = torch.minimum(rising, falling).clamp(min=0)
    bank[0] = 0  # what is constant is no sound
    return bank.float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)
