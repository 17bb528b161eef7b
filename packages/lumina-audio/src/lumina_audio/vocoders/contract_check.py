"""Contract check of vocoders for `lumina_core.testing`."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_audio.vocoders.protocol import Vocoder
from lumina_core.testing import Contract, expect


def check_vocoder(vocoder: Vocoder, mel: Tensor | None = None) -> None:
    """Check every clause of the contract of vocoders.

    Args:
        vocoder: to be checked.
        mel: (B, n_mels, T) natural logarithms, at least two items; None: two chirps.

    Raises:
        ContractError: a clause does not hold.
    """
    contract = Contract("lumina_audio.vocoders.protocol.Vocoder", vocoder)
    with contract.clause("sample_rate, n_mels and hop_length are positive integers"):
        numbers = (vocoder.sample_rate, vocoder.n_mels, vocoder.hop_length)
        expect(all(isinstance(number, int) and number > 0 for number in numbers), f"got {numbers}")
    mel = _chirp_mels(vocoder.n_mels) if mel is None else mel
    with torch.no_grad(), contract.clause("(B, n_mels, T) -> (B, 1, T * hop_length), finite"):
        waveform = vocoder(mel)
        shape = (len(mel), 1, mel.shape[-1] * vocoder.hop_length)
        expect(tuple(waveform.shape) == shape, f"got shape {tuple(waveform.shape)}, expected {shape}")
        expect(bool(torch.isfinite(waveform).all()), "got NaN or infinite samples")
    with torch.no_grad(), contract.clause("the same spectrogram gives the same waveform"):
        expect(torch.equal(vocoder(mel), waveform), "got another waveform")
    with torch.no_grad(), contract.clause("twice as many frames give twice as many samples"):
        longer, expected = vocoder(torch.cat([mel, mel], dim=-1)).shape[-1], 2 * waveform.shape[-1]
        expect(longer == expected, f"got {longer} samples, expected {expected}")


def _chirp_mels(n_mels: int, num_frames: int = 24) -> Tensor:
    """Create two spectrograms (2, n_mels, frames) of one band that rises and one that falls."""
    rising = torch.linspace(0, n_mels - 1, num_frames).long()
    mel = torch.full((2, n_mels, num_frames), -11.0)
    for item, bins in enumerate((rising, rising.flip(0))):
        mel[item, bins, torch.arange(num_frames)] = 0.0
    return mel
