"""PANNs' Cnn14, which names the sounds of AudioSet: from a file of its published weights, at any of its rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.borrowed import FromFile, Weights, weights_of
from lumina_audio.metrics.heard import heard, lengthened
from lumina_core.measures.batches import of_one_size

BLOCKS = range(1, 7)
LEAST = 32
"""Frames: they are halved five times."""
CHUNK = 16


class Panns:
    """Cnn14 (Kong et al., arXiv 1912.10211): its 2048 numbers, or what it says of each of AudioSet's 527 classes.

    The weights are those published as Cnn14_16k_mAP=0.438.pth, Cnn14_mAP=0.431.pth (32 kHz) and their like; the rate is
    told by the size of their mel bank. AudioLDM's evaluation takes its FD and KL from the first of them.
    """

    class Config(FromFile):
        """The file of its weights, and what is taken of it."""

        gives: Literal["embedding", "classes"] = Field(
            "embedding", description="classes: for audio.class_divergence, logits of every class"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._weights = weights_of(config.weights, "PANNs' Cnn14", config.device)
        bank = self._weights.get("logmel_extractor.melW", 2)
        _embedded(self._weights, torch.zeros(1, 1, LEAST, bank.shape[1], device=config.device))  # says what is missing
        count = len(self._weights.get("fc_audioset.bias", 1))
        self.classes = tuple(str(number) for number in range(count)) if config.gives == "classes" else ()
        self._window = 2 * (bank.shape[0] - 1)
        self._rate = self._window * 125 // 4  # windows of 32 ms and hops of 10 ms at every rate
        self.name = f"PANNs Cnn14 at {self._rate / 1000:g} kHz"
        self.key = f"panns {self._weights.digest} {config.gives}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 2048) or (B, 527) float32."""
        hop = self._rate // 100
        sounds = of_one_size(heard(items, self.config.rate, self._rate), CHUNK)
        rows = [self._row(lengthened(part, 1, hop * LEAST).to(self.config.device), hop) for part in sounds]
        return torch.cat([row.cpu() for row in rows]).clone()

    def _row(self, sounds: Tensor, hop: int) -> Tensor:
        window = torch.hann_window(self._window, device=sounds.device)
        spectrum = torch.stft(sounds[:, 0], self._window, hop, window=window, return_complex=True, pad_mode="reflect")
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._weights.get("logmel_extractor.melW", 2)
        embedding = _embedded(self._weights, 10 * mel.clamp(min=1e-10).log10()[:, None])
        if self.config.gives == "embedding":
            return embedding
        return F.linear(embedding, *self._weights.layer("fc_audioset", 2))


def _embedded(weights: Weights, mel: Tensor) -> Tensor:
    """(B, 1, T, bands) in decibels -> (B, D)."""
    x = _normed(weights, "bn0", mel.transpose(1, 3)).transpose(1, 3)
    for number in BLOCKS:
        for layer in (1, 2):
            x = F.conv2d(x, weights.get(f"conv_block{number}.conv{layer}.weight", 4), padding=1)
            x = _normed(weights, f"conv_block{number}.bn{layer}", x).relu()
        x = F.avg_pool2d(x, 2) if number != BLOCKS[-1] else x
    x = x.mean(3)
    return F.linear(x.amax(2) + x.mean(2), *weights.layer("fc1", 2)).relu()


def _normed(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, spread = weights.get(f"{name}.running_mean", 1), weights.get(f"{name}.running_var", 1)
    return F.batch_norm(x, mean, spread, *weights.layer(name, 1))
