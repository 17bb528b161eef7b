"""A sound brought to a spectrogram: what a vocoder missed of the bands it was handed is put right, its phases kept."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_audio.mel import Mel
from lumina_audio.overlaid import overlaid

MOST = 100.0
"""Times that a frequency is made stronger or weaker in one round at most."""


def matched(sound: Tensor, mel: Tensor, front: Mel, rounds: int) -> Tensor:
    """Our own proposal, after Griffin and Lim's alternation (1984), with gains in the place of magnitudes.

    In each round every moment's frequencies are multiplied by what its bands lack, then laid over one another again.
    Unlike Griffin-Lim it keeps what the vocoder knows within a band, the fine structure that a spectrogram has not.

    Args:
        sound: (B, 1, T * hop), what a vocoder made of `mel`.
        mel: (B, bands, T), natural logarithms.
        front: makes such spectrograms.
        rounds: 0 leaves it as it is.
    """
    bank, window = front.bank.to(sound.device).float(), front.window.to(sound.device).float()
    floor, hop = front.settings.floor, front.settings.hop
    covered = bank.sum(0)[:, None]
    share = bank.T / covered.clamp_min(1e-6)
    bare = (covered <= 1e-6).float()  # frequencies of no band stay as they are
    wanted = mel.float().exp().clamp_min(floor)
    for _ in range(rounds):
        spectrum = torch.stft(
            front.padded(sound.float()), len(window), hop, window=window, center=False, return_complex=True
        )
        gain = share @ (wanted / (bank @ spectrum.abs()).clamp_min(floor)) + bare
        sound = overlaid((spectrum * gain.clamp(1 / MOST, MOST)).transpose(1, 2), window, hop)
    return sound
