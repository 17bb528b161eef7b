"""What teaches a vocoder: how far the spectra of what it makes are from those of the sound."""

from __future__ import annotations

from torch import Tensor

from lumina_audio.mel import Mel
from lumina_audio.spectral import stft_distances
from lumina_core.types import Loss


def vocoding_loss(made: Tensor, real: Tensor, front: Mel, weight: float) -> Loss:
    """Spectral convergence and log magnitudes at several resolutions, and the mel spectrogram.

    The first two as in Parallel WaveGAN (arXiv 1910.11480), the third as in HiFi-GAN (arXiv 2010.05646).

    Args:
        made, real: (B, 1, S) waveforms.
        front: makes the spectrograms that are compared.
        weight: of their mean absolute difference.
    """
    share, log = (distance.mean() for distance in stft_distances(made, real))
    bands = (front(made) - front(real)).abs().mean()
    terms = {"share": share.detach(), "log": log.detach(), "mel": bands.detach()}
    return Loss(share + log + weight * bands, terms)
