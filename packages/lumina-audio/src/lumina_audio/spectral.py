"""How far apart two sounds are, by their spectra at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina_audio.mel import magnitudes

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))
"""(samples of a window, samples from one to the next)."""
QUIETEST = 1.0
"""What the magnitudes of a sound add up to at least, as a norm: -66 dB for a second. Less is as good as silent, and to
compare with silence in shares of it would drown all else."""


def stft_distances(
    made: Tensor, real: Tensor, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS
) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log-magnitude distance, means over resolutions (Parallel WaveGAN, arXiv 1910.11480).

    Args:
        made, real: (B, 1, S) waveforms of one length, S at least the longest window.
        resolutions: pairs like those of `RESOLUTIONS`.

    Returns:
        Two tensors (B,), each 0 where the magnitudes are equal.
    """
    shares, logs = [], []
    for fft, hop in resolutions:
        window = torch.hann_window(fft, device=real.device)
        ours, theirs = (magnitudes(sound[:, 0].float(), window, hop) for sound in (made, real))
        shares.append(
            (ours - theirs).square().sum((1, 2)).sqrt() / theirs.square().sum((1, 2)).sqrt().clamp_min(QUIETEST)
        )
        logs.append((ours.clamp_min(1e-4).log() - theirs.clamp_min(1e-4).log()).abs().mean((1, 2)))
    return torch.stack(shares).mean(0), torch.stack(logs).mean(0)


def stft_distance(made: Tensor, real: Tensor) -> Tensor:
    """The sum of both distances, (B,): the multi-resolution STFT distance that figures are told in."""
    share, log = stft_distances(made, real)
    return share + log
