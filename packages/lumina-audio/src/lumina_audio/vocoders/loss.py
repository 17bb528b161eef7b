"""How far apart two sounds are, by their spectra at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina_audio.mel import MelSpectrogram, stft_magnitude
from lumina_core.types import Loss

STFT_RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))
"""(samples of a window, samples from one to the next)."""
MIN_NORM = 1.0
"""What the magnitudes of a sound add up to at least, as a norm: -66 dB for a second. Less is as good as silent, and to
compare with silence in shares of it would drown all else."""


def stft_losses(
    generated: Tensor, real: Tensor, resolutions: Sequence[tuple[int, int]] = STFT_RESOLUTIONS
) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log-magnitude distance, means over resolutions (Parallel WaveGAN, arXiv 1910.11480).

    Args:
        made, real: (B, 1, S) waveforms of one length, S at least the longest window.
        resolutions: pairs like those of `RESOLUTIONS`.

    Returns:
        Two tensors (B,), each 0 where the magnitudes are equal.
    """
    convergences, log_distances = [], []
    for n_fft, hop_length in resolutions:
        window = torch.hann_window(n_fft, device=real.device)
        generated_magnitudes, real_magnitudes = (
            stft_magnitude(waveform[:, 0].float(), window, hop_length) for waveform in (generated, real)
        )
        convergences.append(
            (generated_magnitudes - real_magnitudes).square().sum((1, 2)).sqrt()
            / real_magnitudes.square().sum((1, 2)).sqrt().clamp_min(MIN_NORM)
        )
        log_distances.append(
            (generated_magnitudes.clamp_min(1e-4).log() - real_magnitudes.clamp_min(1e-4).log()).abs().mean((1, 2))
        )
    return torch.stack(convergences).mean(0), torch.stack(log_distances).mean(0)


def stft_loss(generated: Tensor, real: Tensor) -> Tensor:
    """The sum of both distances, (B,): the multi-resolution STFT distance that figures are told in."""
    convergence, log_distance = stft_losses(generated, real)
    return convergence + log_distance


VOCODER_RESOLUTIONS = (*STFT_RESOLUTIONS, (4096, 1024))
"""Windows of up to 0.26 s at 16 kHz: to shorter ones a low note a semitone off looks like the right one."""


def vocoder_loss(generated: Tensor, real: Tensor, mel: MelSpectrogram, mel_weight: float) -> Loss:
    """Spectral convergence and log magnitudes at several resolutions, and the mel spectrogram.

    The first two as in Parallel WaveGAN (arXiv 1910.11480), the third as in HiFi-GAN (arXiv 2010.05646).

    Args:
        made, real: (B, 1, S) waveforms, S at least 256; windows that are longer are left out.
        front: makes the spectrograms that are compared.
        weight: of their mean absolute difference.
    """
    windows = [(n_fft, hop_length) for n_fft, hop_length in VOCODER_RESOLUTIONS if n_fft <= generated.shape[-1]]
    convergence, log_distance = (distance.mean() for distance in stft_losses(generated, real, windows))
    mel_distance = (mel(generated) - mel(real)).abs().mean()
    terms = {
        "spectral_convergence": convergence.detach(),
        "log_magnitude": log_distance.detach(),
        "mel": mel_distance.detach(),
    }
    return Loss(convergence + log_distance + mel_weight * mel_distance, terms)
