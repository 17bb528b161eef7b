"""Features of sounds by their log-mel spectrogram: plain statistics, and the spectrogram seen as a picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.metrics.preprocess import AudioFeatureConfig, pad_to_multiple, prepare
from lumina_core.metrics import batch_by_shape
from lumina_core.metrics.efficientnet_lite0 import LIBRARIES, WEIGHTS_FILE, efficientnet_lite0
from lumina_core.protocols import FeatureExtractor

INSTALL_EXTRA = "lumina-audio[evaluate]"
BATCH_SIZE = 32
MEL_CONFIG = MelConfig(min_amplitude=1e-4)
"""How sounds are looked at. What is fainter than -80 dB is not heard, but is there in every compressed file."""
WHITE_LEVEL = 3.5
"""About the logarithm of the strongest band of a full-scale tone; white in a picture."""


class LogMelStatistics(FeatureExtractor):
    """Mean and deviation over time of each of 80 log-mel bands: how a sound is coloured, and how much that changes.

    Natural logarithms of magnitudes, not below 1e-4; 16 kHz, FFT 1024, hop 256, as the paper's front end.
    """

    name, key = "log-mel statistics", "log-mel mean and deviation from 1e-4"

    class Config(AudioFeatureConfig):
        """Of what rate the sounds are."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 160) float32."""
        rows = [
            torch.cat([mel.mean(2), mel.std(2, correction=0)], 1)
            for mel in batched_log_mels(items, self.config.sample_rate)
        ]
        return torch.cat(rows)


class LogMelFrames(FeatureExtractor):
    """The log-mel spectrogram in `spans` equal spans of time, the mean of each: what a sound is like, and when.

    A row is its spans one after another; a distance between sets takes each span as a sample (`pieces`).
    """

    class Config(AudioFeatureConfig):
        """Of what rate the sounds are, and into how many spans they are cut."""

        num_segments: int = Field(16, ge=1, le=1024, description="spans of time; a sound of 2 s has 8 a second")

    def __init__(self, config: Config) -> None:
        self.config, self.samples_per_row = config, config.num_segments
        self.name = f"log-mel in {config.num_segments} spans"
        self.key = f"{self.name} from 1e-4"

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, spans * 80) float32."""
        mels = batched_log_mels(items, self.config.sample_rate)
        return torch.cat(
            [F.adaptive_avg_pool1d(mel, self.config.num_segments).transpose(1, 2).flatten(1) for mel in mels]
        )


class MelEfficientNetLite0(FeatureExtractor):
    """The 1280 features of EfficientNet-Lite0 (ImageNet) of the log-mel spectrogram, seen as a grey picture.

    It knows no sounds, but shapes; figures that rest on it are called so, and are no FAD.
    """

    libraries = LIBRARIES

    class Config(AudioFeatureConfig):
        """How spectrograms are shown to it."""

        image_size: int = Field(96, ge=32, le=1024, description="spectrograms are resized to it, both ways")
        device: str = Field("cpu", description="where it runs")

    def __init__(self, config: Config) -> None:
        self.config = config
        is_default = config.image_size == type(config).model_fields["image_size"].default
        self.name = "EfficientNet-Lite0 on log-mel" + ("" if is_default else f" at {config.image_size} px")
        self.key = f"{WEIGHTS_FILE} on log-mel from 1e-4 at {config.image_size}"
        self._network = efficientnet_lite0(config.image_size, config.device, "audio.efficientnet_lite0", INSTALL_EXTRA)

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 1280) float32."""
        rows = []
        for mel in batched_log_mels(items, self.config.sample_rate):
            levels = (mel - MEL_CONFIG.min_value) / (WHITE_LEVEL - MEL_CONFIG.min_value) * 255
            image = levels.clamp(0, 255).flip(1)[:, None].expand(-1, 3, -1, -1)
            rows.append(self._network(image.to(self.config.device)).float().cpu())
        return torch.cat(rows).clone()


def batched_log_mels(items: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """Sounds -> their log-mel spectrograms (B, 80, T), at most 32 of one length at once, in order; T is 4 or more."""
    mel_config = MEL_CONFIG
    waveforms = prepare(items, sample_rate, mel_config.sample_rate)
    with torch.no_grad():
        return [
            _mel_transform()(pad_to_multiple(batch, mel_config.hop_length, 4))
            for batch in batch_by_shape(waveforms, BATCH_SIZE)
        ]


@functools.lru_cache(maxsize=1)
def _mel_transform() -> MelSpectrogram:
    return MelSpectrogram(MEL_CONFIG)
