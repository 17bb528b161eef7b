"""VGGish, the network of the Frechet audio distance: from a file of its published weights, with its own front end."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.preprocess import prepare
from lumina_audio.metrics.pretrained_file import WeightsFile, WeightsFileConfig, load_weights
from lumina_core.metrics import batch_by_shape
from lumina_core.protocols import FeatureExtractor

SAMPLE_RATE, WINDOW_LENGTH, HOP_LENGTH, N_FFT = 16000, 400, 160, 512
N_MELS, F_MIN, F_MAX, LOG_OFFSET = 64, 125.0, 7500.0, 0.01
PATCH_FRAMES = 96
"""Of a patch: 0.96 s."""
CONV_INDICES, POOL_AFTER, LINEAR_INDICES = (0, 3, 6, 8, 11, 13), (0, 3, 8, 13), (0, 2, 4)
"""Places of the layers in the published file, and after which of them one in four is kept."""
BATCH_SIZE = 16


class VGGishFeatures(FeatureExtractor):
    """The 128 numbers of VGGish for each 0.96 s (Hershey et al., arXiv 1609.09430), before the last ReLU.

    As in AudioLDM's evaluation, without the PCA of the published embeddings. The weights are those of the repository
    harritaylor/torchvggish (vggish-10086976.pth), themselves converted from TensorFlow's. A row is its patches one
    after another, and a distance between sets takes each patch as a sample (`pieces`), as the FAD does.
    """

    name = "VGGish"

    class Config(WeightsFileConfig):
        """The file of its weights, and how much of each sound is heard."""

        num_patches: int = Field(
            2, ge=1, le=64, description="of 0.96 s; what is longer is cut, what is shorter has silence"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.samples_per_row = config, config.num_patches
        self._weights = load_weights(config.weights, "VGGish (torchvggish)", config.device)
        for index in CONV_INDICES:
            self._weights.layer(f"features.{index}", 4)
        for index in LINEAR_INDICES:
            self._weights.layer(f"embeddings.{index}", 2)
        self.key = f"vggish {self._weights.digest} {config.num_patches}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, patches * 128) float32."""
        length = WINDOW_LENGTH + HOP_LENGTH * (PATCH_FRAMES * self.config.num_patches - 1)
        waveforms = [F.pad(item, (0, max(0, length - item.shape[-1])))[:, :length] for item in self._prepare(items)]
        rows = [
            _vggish(self._weights, _log_mel_patches(batch[:, 0].to(self.config.device)))
            for batch in batch_by_shape(waveforms, BATCH_SIZE)
        ]
        return torch.cat([row.reshape(-1, self.config.num_patches * row.shape[1]).cpu() for row in rows]).clone()

    def _prepare(self, items: Sequence[Tensor]) -> list[Tensor]:
        return prepare(items, self.config.sample_rate, SAMPLE_RATE)


def _log_mel_patches(waveform: Tensor) -> Tensor:
    """(B, S) -> log-mel patches (B * patches, 1, 96, 64)."""
    frames = waveform.unfold(1, WINDOW_LENGTH, HOP_LENGTH) * torch.hann_window(WINDOW_LENGTH, device=waveform.device)
    mel = torch.fft.rfft(frames, N_FFT).abs() @ _filterbank().to(waveform.device)
    patches: Tensor = (mel + LOG_OFFSET).log().reshape(-1, 1, PATCH_FRAMES, N_MELS)
    return patches


def _vggish(weights: WeightsFile, patches: Tensor) -> Tensor:
    x = patches
    for index in CONV_INDICES:
        x = F.conv2d(x, *weights.layer(f"features.{index}", 4), padding=1).relu()
        x = F.max_pool2d(x, 2) if index in POOL_AFTER else x
    x = x.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: time, band, channel
    for index in LINEAR_INDICES:
        x = F.linear(x, *weights.layer(f"embeddings.{index}", 2))
        x = x.relu() if index != LINEAR_INDICES[-1] else x
    return x


@functools.lru_cache(maxsize=1)
def _filterbank() -> Tensor:
    """(257, 64): triangles that are straight on the HTK mel scale, not in Hz, as AudioSet's front end has them."""
    mel_frequencies = _hz_to_mel(torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64))
    edges = torch.linspace(float(_hz_to_mel(torch.tensor(F_MIN))), float(_hz_to_mel(torch.tensor(F_MAX))), N_MELS + 2)
    low, middle, high = edges[:-2].double(), edges[1:-1].double(), edges[2:].double()
    rising = (mel_frequencies[:, None] - low) / (middle - low)
    falling = (high - mel_frequencies[:, None]) / (high - middle)
    filterbank = torch.minimum(rising, falling).clamp(min=0)
    filterbank[0] = 0  # what is constant is no sound
    return filterbank.float()


def _hz_to_mel(hz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hz / 700)
