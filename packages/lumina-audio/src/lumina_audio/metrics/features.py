"""Features of log-mel spectrograms, and the preparation of waveforms that all audio features share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchaudio.functional import resample

from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.metrics.base import batch_by_shape
from lumina_core.metrics.efficientnet_lite0 import LIBRARIES, WEIGHTS_FILE, efficientnet_lite0
from lumina_core.protocols import FeatureExtractor

INSTALL_EXTRA = "lumina-audio[evaluate]"
BATCH_SIZE = 32
MEL_CONFIG = MelConfig(min_amplitude=1e-4)
"""Spectrogram of all features here. Below -80 dB, compressed files hold inaudible noise."""
WHITE_LEVEL = 3.5
"""Natural logarithm shown as white: about the strongest band of a full-scale tone."""


class AudioFeatureConfig(Settings):
    """Options of all audio features."""

    sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second of the audio")


def prepare(items: Sequence[Tensor], sample_rate: int, target_rate: int) -> list[Tensor]:
    """Clip waveforms (1, S) to [-1, 1], as a file would, and resample them.

    Raises:
        ShapeError: an item has another shape, or no samples.
    """
    for item in items:
        if item.ndim != 2 or item.shape[0] != 1 or not item.shape[1]:
            raise ShapeError(f"audio features: got shape {tuple(item.shape)}, expected (1, samples)")
    clipped = [item.detach().float().cpu().nan_to_num().clamp(-1, 1) for item in items]
    return clipped if sample_rate == target_rate else [resample(item, sample_rate, target_rate) for item in clipped]


def batched_log_mels(items: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """Compute log-mel spectrograms (B, 80, T >= 4) in order, at most 32 waveforms of one length per batch."""
    waveforms = prepare(items, sample_rate, MEL_CONFIG.sample_rate)
    hop_length = MEL_CONFIG.hop_length
    lengths = [max(-(-waveform.shape[-1] // hop_length), 4) * hop_length for waveform in waveforms]
    padded = [F.pad(item, (0, length - item.shape[-1])) for item, length in zip(waveforms, lengths, strict=True)]
    with torch.no_grad():
        return [_mel_transform()(batch) for batch in batch_by_shape(padded, BATCH_SIZE)]


class LogMelStatistics(FeatureExtractor):
    """Mean and standard deviation over time of 80 log-mel bands: the timbre, and how much it changes.

    Natural logarithms of magnitudes of at least 1e-4, at 16 kHz, FFT 1024, hop 256.
    """

    name, key = "log-mel statistics", "log-mel mean and deviation from 1e-4"

    class Config(AudioFeatureConfig):
        """Sample rate of the audio."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 160) float32."""
        mels = batched_log_mels(items, self.config.sample_rate)
        return torch.cat([torch.cat([mel.mean(2), mel.std(2, correction=0)], 1) for mel in mels])


class LogMelFrames(FeatureExtractor):
    """Mean log-mel spectrum of each of `num_segments` equal segments of time.

    A row holds its segments one after another; distribution metrics take each segment as a sample.
    """

    class Config(AudioFeatureConfig):
        """Sample rate of the audio, and number of segments."""

        num_segments: int = Field(16, ge=1, le=1024, description="segments of time per clip")

    def __init__(self, config: Config) -> None:
        self.config, self.samples_per_row = config, config.num_segments
        self.name = f"log-mel in {config.num_segments} segments"
        self.key = f"log-mel in {config.num_segments} spans from 1e-4"

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, num_segments * 80) float32."""
        mels = batched_log_mels(items, self.config.sample_rate)
        pooled = [F.adaptive_avg_pool1d(mel, self.config.num_segments) for mel in mels]
        return torch.cat([mel.transpose(1, 2).flatten(1) for mel in pooled])


class MelEfficientNetLite0(FeatureExtractor):
    """The 1280 features of EfficientNet-Lite0, trained on ImageNet, of the log-mel spectrogram as a grayscale image.

    Distances of these features are named after the network; they are no Frechet audio distance (FAD).
    """

    libraries = LIBRARIES

    class Config(AudioFeatureConfig):
        """Sample rate of the audio, size of the image, and device."""

        image_size: int = Field(96, ge=32, le=1024, description="width and height of the resized spectrogram")
        device: str = Field("cpu", description="device of the network")

    def __init__(self, config: Config) -> None:
        self.config = config
        is_default = config.image_size == type(config).model_fields["image_size"].default
        self.name = "EfficientNet-Lite0 on log-mel" + ("" if is_default else f" at {config.image_size} px")
        self.key = f"{WEIGHTS_FILE} on log-mel from 1e-4 at {config.image_size}"
        self._network = efficientnet_lite0(config.image_size, config.device, "audio.efficientnet_lite0", INSTALL_EXTRA)

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 1280) float32."""
        rows = []
        for mel in batched_log_mels(items, self.config.sample_rate):
            levels = (mel - MEL_CONFIG.min_value) / (WHITE_LEVEL - MEL_CONFIG.min_value) * 255
            image = levels.clamp(0, 255).flip(1)[:, None].expand(-1, 3, -1, -1)
            rows.append(self._network(image.to(self.config.device)).float().cpu())
        return torch.cat(rows).clone()


@functools.lru_cache(maxsize=1)
def _mel_transform() -> MelSpectrogram:
    return MelSpectrogram(MEL_CONFIG)
