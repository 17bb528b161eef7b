"""The kind of part that turns a spectrogram into sound."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Vocoder(Protocol):
    """A log-mel spectrogram -> the waveform it is of. Says by three numbers which spectrograms it reads."""

    sample_rate: int
    """Samples of the waveform a second."""
    n_mels: int
    """Bands of the spectrogram."""
    hop_length: int
    """Samples a frame stands for."""

    def __call__(self, mel: Tensor) -> Tensor:
        """(B, bands, T), natural logarithms as `mel.Mel` makes them -> (B, 1, T * hop) in about [-1, 1]."""
        ...
