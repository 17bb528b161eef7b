"""PANNs' Cnn14, which names the sounds of AudioSet: from a file of its published weights, at any of its rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.preprocess import pad_to_multiple, prepare
from lumina_audio.metrics.pretrained_file import WeightsFile, WeightsFileConfig, load_weights
from lumina_core.metrics import batch_by_shape
from lumina_core.protocols import FeatureExtractor

BLOCK_NUMBERS = range(1, 7)
MIN_FRAMES = 32
"""Frames: they are halved five times."""
BATCH_SIZE = 16


class PannsFeatures(FeatureExtractor):
    """Cnn14 (Kong et al., arXiv 1912.10211): its 2048 numbers, or what it says of each of AudioSet's 527 classes.

    The weights are those published as Cnn14_16k_mAP=0.438.pth, Cnn14_mAP=0.431.pth (32 kHz) and their like; the rate is
    told by the size of their mel bank. AudioLDM's evaluation takes its FD and KL from the first of them.
    """

    class Config(WeightsFileConfig):
        """The file of its weights, and what is taken of it."""

        output: Literal["embedding", "classes"] = Field(
            "embedding", description="classes: for audio.class_kl, logits of every class"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._weights = load_weights(config.weights, "PANNs' Cnn14", config.device)
        filterbank = self._weights.get("logmel_extractor.melW", 2)
        _cnn14(
            self._weights, torch.zeros(1, 1, MIN_FRAMES, filterbank.shape[1], device=config.device)
        )  # says what is missing
        count = len(self._weights.get("fc_audioset.bias", 1))
        self.classes = tuple(str(number) for number in range(count)) if config.output == "classes" else ()
        self._window_length = 2 * (filterbank.shape[0] - 1)
        self._sample_rate = self._window_length * 125 // 4  # windows of 32 ms and hops of 10 ms at every rate
        self.name = f"PANNs Cnn14 at {self._sample_rate / 1000:g} kHz"
        self.key = f"panns {self._weights.digest} {config.output}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 2048) or (B, 527) float32."""
        hop_length = self._sample_rate // 100
        batches = batch_by_shape(prepare(items, self.config.sample_rate, self._sample_rate), BATCH_SIZE)
        rows = [
            self._row(pad_to_multiple(batch, 1, hop_length * MIN_FRAMES).to(self.config.device), hop_length)
            for batch in batches
        ]
        return torch.cat([row.cpu() for row in rows]).clone()

    def _row(self, waveforms: Tensor, hop_length: int) -> Tensor:
        window = torch.hann_window(self._window_length, device=waveforms.device)
        spectrum = torch.stft(
            waveforms[:, 0], self._window_length, hop_length, window=window, return_complex=True, pad_mode="reflect"
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._weights.get("logmel_extractor.melW", 2)
        embedding = _cnn14(self._weights, 10 * mel.clamp(min=1e-10).log10()[:, None])
        if self.config.output == "embedding":
            return embedding
        return F.linear(embedding, *self._weights.layer("fc_audioset", 2))


def _cnn14(weights: WeightsFile, mel: Tensor) -> Tensor:
    """(B, 1, T, bands) in decibels -> (B, D)."""
    x = _batch_norm(weights, "bn0", mel.transpose(1, 3)).transpose(1, 3)
    for number in BLOCK_NUMBERS:
        for layer in (1, 2):
            x = F.conv2d(x, weights.get(f"conv_block{number}.conv{layer}.weight", 4), padding=1)
            x = _batch_norm(weights, f"conv_block{number}.bn{layer}", x).relu()
        x = F.avg_pool2d(x, 2) if number != BLOCK_NUMBERS[-1] else x
    x = x.mean(3)
    return F.linear(x.amax(2) + x.mean(2), *weights.layer("fc1", 2)).relu()


def _batch_norm(weights: WeightsFile, name: str, x: Tensor) -> Tensor:
    mean, var = weights.get(f"{name}.running_mean", 1), weights.get(f"{name}.running_var", 1)
    return F.batch_norm(x, mean, var, *weights.layer(name, 1))
