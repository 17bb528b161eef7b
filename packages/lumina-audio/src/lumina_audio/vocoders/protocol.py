"""Contract of the component type `vocoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lumina_audio.mel import MelConfig
from lumina_core.errors import ConfigError
from lumina_core.types import Loss


class Vocoder(Protocol):
    """Function from a log-mel spectrogram to a waveform.

    Attributes:
        sample_rate: samples per second of the waveform.
        n_mels: bands of the spectrogram.
        hop_length: samples per frame.
    """

    sample_rate: int
    n_mels: int
    hop_length: int

    def __call__(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) of `MelSpectrogram` to (B, 1, T * hop_length) in about [-1, 1]."""
        ...


@runtime_checkable
class SupportsVocoderLoss(Protocol):
    """Vocoder with a training loss of its own."""

    def loss(self, mel: Tensor, real: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of natural log-mel (B, n_mels, T) for the waveforms (B, 1, T * hop_length) they are of.

        Args:
            mel: spectrograms, some of which passed through an autoencoder.
            real: waveforms.
            generators: one per item, on the CPU.
        """
        ...


def check_vocoder_matches(vocoder: Vocoder, mel: MelConfig, name: str) -> None:
    """Raise ConfigError unless a vocoder reads spectrograms of this config."""
    actual = {"sample_rate": vocoder.sample_rate, "n_mels": vocoder.n_mels, "hop_length": vocoder.hop_length}
    expected = mel.model_dump(include=set(actual))
    for option, value in actual.items():
        if value != expected[option]:
            raise ConfigError(
                f"{option} of vocoder {name}: got {value}, expected {expected[option]}, that of the spectrogram. Set "
                f"autoencoder.mel.{option} and autoencoder.vocoder.{option} to the same value."
            )
