"""What every vocoder promises, for the kit: `lumina_core.testing.check_part`."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_audio.vocoders.protocol import Vocoder
from lumina_core.testing import Contract, expect


def check_vocoder(vocoder: Vocoder, mel: Tensor | None = None) -> None:
    """Try every line of a vocoder's contract.

    Args:
        mel: (B, bands, T) natural logarithms, at least two items; None: spectrograms that are made here.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("lumina_audio.vocoders.protocol.Vocoder", vocoder)
    with contract.clause("rate, bands and hop are whole numbers above 0"):
        numbers = (vocoder.sample_rate, vocoder.n_mels, vocoder.hop_length)
        expect(all(isinstance(number, int) and number > 0 for number in numbers), f"they are {numbers}")
    spectrograms = _chirp_mels(vocoder.n_mels) if mel is None else mel
    with torch.no_grad(), contract.clause("(B, bands, T) -> (B, 1, T * hop), real numbers"):
        waveform = vocoder(spectrograms)
        expected = (len(spectrograms), 1, spectrograms.shape[-1] * vocoder.hop_length)
        expect(
            tuple(waveform.shape) == expected, f"the sound has the shape {tuple(waveform.shape)} instead of {expected}"
        )
        expect(bool(torch.isfinite(waveform).all()), "it holds numbers that are infinite or none")
    with torch.no_grad(), contract.clause("the same spectrogram gives the same sound"):
        expect(torch.equal(vocoder(spectrograms), waveform), "another sound")
    with torch.no_grad(), contract.clause("twice as many frames give twice as many samples"):
        longer = vocoder(torch.cat([spectrograms, spectrograms], dim=-1))
        expect(
            longer.shape[-1] == 2 * waveform.shape[-1],
            f"{longer.shape[-1]} samples instead of {2 * waveform.shape[-1]}",
        )


def _chirp_mels(n_mels: int, num_frames: int = 24) -> Tensor:
    """Two spectrograms of one band that rises and one that falls, (2, bands, frames)."""
    rising = torch.linspace(0, n_mels - 1, num_frames).long()
    mel = torch.full((2, n_mels, num_frames), -11.0)
    for item, bins in enumerate((rising, rising.flip(0))):
        mel[item, bins, torch.arange(num_frames)] = 0.0
    return mel
