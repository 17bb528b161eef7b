"""Features of sounds by their log-mel spectrogram: plain statistics, and the spectrogram seen as a picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.mel import Mel, MelSettings
from lumina_audio.metrics.heard import Hearing, heard, lengthened
from lumina_core.measures.batches import of_one_size
from lumina_core.measures.lite0 import FILE, LIBRARIES, lite0

EXTRA = "lumina-audio[evaluate]"
CHUNK = 32
SPECTROGRAM = MelSettings(floor=1e-4)
"""How sounds are looked at. What is fainter than -80 dB is not heard, but is there in every compressed file."""
LOUDEST = 3.5
"""About the logarithm of the strongest band of a full-scale tone; white in a picture."""


class LogMel:
    """Mean and deviation over time of each of 80 log-mel bands: how a sound is coloured, and how much that changes.

    Natural logarithms of magnitudes, not below 1e-4; 16 kHz, FFT 1024, hop 256, as the paper's front end.
    """

    name, key = "log-mel statistics", "log-mel mean and deviation from 1e-4"

    class Config(Hearing):
        """Of what rate the sounds are."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 160) float32."""
        rows = [torch.cat([mel.mean(2), mel.std(2, correction=0)], 1) for mel in log_mels(items, self.config.rate)]
        return torch.cat(rows)


class LogMelFrames:
    """The log-mel spectrogram in `spans` equal spans of time, the mean of each: what a sound is like, and when.

    A row is its spans one after another; a distance between sets takes each span as a sample (`pieces`).
    """

    class Config(Hearing):
        """Of what rate the sounds are, and into how many spans they are cut."""

        spans: int = Field(16, ge=1, le=1024, description="spans of time; a sound of 2 s has 8 a second")

    def __init__(self, config: Config) -> None:
        self.config, self.pieces = config, config.spans
        self.name = f"log-mel in {config.spans} spans"
        self.key = f"{self.name} from 1e-4"

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, spans * 80) float32."""
        mels = log_mels(items, self.config.rate)
        return torch.cat([F.adaptive_avg_pool1d(mel, self.config.spans).transpose(1, 2).flatten(1) for mel in mels])


class EfficientNetLite0:
    """The 1280 features of EfficientNet-Lite0 (ImageNet) of the log-mel spectrogram, seen as a grey picture.

    It knows no sounds, but shapes; figures that rest on it are called so, and are no FAD.
    """

    libraries = LIBRARIES

    class Config(Hearing):
        """How spectrograms are shown to it."""

        side: int = Field(96, ge=32, le=1024, description="spectrograms are resized to it, both ways")
        device: str = Field("cpu", description="where it runs")

    def __init__(self, config: Config) -> None:
        self.config = config
        usual = config.side == type(config).model_fields["side"].default
        self.name = "EfficientNet-Lite0 on log-mel" + ("" if usual else f" at {config.side} px")
        self.key = f"{FILE} on log-mel from 1e-4 at {config.side}"
        self._network = lite0(config.side, config.device, "audio.efficientnet_lite0", EXTRA)

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 1280) float32."""
        rows = []
        for mel in log_mels(items, self.config.rate):
            levels = (mel - SPECTROGRAM.silence) / (LOUDEST - SPECTROGRAM.silence) * 255
            grey = levels.clamp(0, 255).flip(1)[:, None].expand(-1, 3, -1, -1)
            rows.append(self._network(grey.to(self.config.device)).float().cpu())
        return torch.cat(rows).clone()


def log_mels(items: Sequence[Tensor], rate: int) -> list[Tensor]:
    """Sounds -> their log-mel spectrograms (B, 80, T), at most 32 of one length at once, in order; T is 4 or more."""
    settings = SPECTROGRAM
    sounds = heard(items, rate, settings.rate)
    with torch.no_grad():
        return [_mel()(lengthened(part, settings.hop, 4)) for part in of_one_size(sounds, CHUNK)]


@functools.lru_cache(maxsize=1)
def _mel() -> Mel:
    return Mel(SPECTROGRAM)
