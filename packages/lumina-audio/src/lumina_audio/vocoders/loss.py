"""STFT distances between waveforms, and the training loss of vocoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina_audio.mel import MelSpectrogram, stft_magnitude
from lumina_core.types import Loss

STFT_RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))
"""(samples of a window, samples between windows)."""
MIN_NORM = 1.0
"""Smallest norm of magnitudes in the spectral convergence: -66 dB for a second of audio. Relative to a quieter clip,
an error would dominate all others."""
VOCODER_RESOLUTIONS = (*STFT_RESOLUTIONS, (4096, 1024))
"""With windows of up to 0.26 s at 16 kHz, which resolve an error of a semitone in a low note."""


def stft_losses(
    generated: Tensor, real: Tensor, resolutions: Sequence[tuple[int, int]] = STFT_RESOLUTIONS
) -> tuple[Tensor, Tensor]:
    """Compute spectral convergence and log-magnitude distance, means over resolutions (arXiv 1910.11480).

    Args:
        generated: (B, 1, S), S at least the longest window.
        real: (B, 1, S).
        resolutions: pairs as in `STFT_RESOLUTIONS`.

    Returns:
        Two tensors (B,), each 0 if the magnitudes are equal.
    """
    convergences, log_distances = [], []
    for n_fft, hop_length in resolutions:
        window = torch.hann_window(n_fft, device=real.device)
        first, second = (stft_magnitude(wave[:, 0].float(), window, hop_length) for wave in (generated, real))
        error, norm = ((value.square().sum((1, 2))).sqrt() for value in (first - second, second))
        convergences.append(error / norm.clamp_min(MIN_NORM))
        log_distances.append((first.clamp_min(1e-4).log() - second.clamp_min(1e-4).log()).abs().mean((1, 2)))
    return torch.stack(convergences).mean(0), torch.stack(log_distances).mean(0)


def stft_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Add both distances of `stft_losses` to the multi-resolution STFT distance (B,)."""
    convergence, log_distance = stft_losses(generated, real)
    return convergence + log_distance


def vocoder_loss(generated: Tensor, real: Tensor, mel: MelSpectrogram, mel_weight: float) -> Loss:
    """Compute the loss of a vocoder: multi-resolution STFT distance plus mean absolute log-mel difference.

    After Parallel WaveGAN (arXiv 1910.11480) and HiFi-GAN (arXiv 2010.05646).

    Args:
        generated: (B, 1, S), S at least 256; longer windows are omitted.
        real: (B, 1, S).
        mel: transform of the log-mel difference.
        mel_weight: weight of the log-mel difference.
    """
    resolutions = [(n_fft, hop_length) for n_fft, hop_length in VOCODER_RESOLUTIONS if n_fft <= generated.shape[-1]]
    convergence, log_distance = (distance.mean() for distance in stft_losses(generated, real, resolutions))
    mel_distance = (mel(generated) - mel(real)).abs().mean()
    terms = {"spectral_convergence": convergence, "log_magnitude": log_distance, "mel": mel_distance}
    total = convergence + log_distance + mel_weight * mel_distance
    return Loss(total, {name: value.detach() for name, value in terms.items()})
