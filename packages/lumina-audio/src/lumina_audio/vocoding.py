"""What teaches a vocoder: how far the spectra of what it makes are from those of the sound."""

from __future__ import annotations

from torch import Tensor

from lumina_audio.mel import Mel
from lumina_audio.spectral import RESOLUTIONS, stft_distances
from lumina_core.types import Loss

TAUGHT = (*RESOLUTIONS, (4096, 1024))
"""Windows of up to 0.26 s at 16 kHz: to shorter ones a low note a semitone off looks like the right one."""


def vocoding_loss(made: Tensor, real: Tensor, front: Mel, weight: float) -> Loss:
    """Spectral convergence and log magnitudes at several resolutions, and the mel spectrogram.

    The first two as in Parallel WaveGAN (arXiv 1910.11480), the third as in HiFi-GAN (arXiv 2010.05646).

    Args:
        made, real: (B, 1, S) waveforms, S at least 256; windows that are longer are left out.
        front: makes the spectrograms that are compared.
        weight: of their mean absolute difference.
    """
    windows = [(fft, hop) for fft, hop in TAUGHT if fft <= made.shape[-1]]
    share, log = (distance.mean() for distance in stft_distances(made, real, windows))
    bands = (front(made) - front(real)).abs().mean()
    terms = {"share": share.detach(), "log": log.detach(), "mel": bands.detach()}
    return Loss(share + log + weight * bands, terms)
