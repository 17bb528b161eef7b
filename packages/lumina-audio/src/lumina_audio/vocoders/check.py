"""What every vocoder promises, for the kit: `lumina_core.testing.check_part`."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_audio.vocoders.contract import Vocoder
from lumina_core.testing import Contract, want


def check_vocoder(vocoder: Vocoder, mel: Tensor | None = None) -> None:
    """Try every line of a vocoder's contract.

    Args:
        mel: (B, bands, T) natural logarithms, at least two items; None: spectrograms that are made here.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("lumina_audio.vocoders.contract.Vocoder", vocoder)
    with contract.line("rate, bands and hop are whole numbers above 0"):
        numbers = (vocoder.rate, vocoder.bands, vocoder.hop)
        want(all(isinstance(number, int) and number > 0 for number in numbers), f"they are {numbers}")
    heard = _chirps(vocoder.bands) if mel is None else mel
    with torch.no_grad(), contract.line("(B, bands, T) -> (B, 1, T * hop), real numbers"):
        sound = vocoder(heard)
        wanted = (len(heard), 1, heard.shape[-1] * vocoder.hop)
        want(tuple(sound.shape) == wanted, f"the sound has the shape {tuple(sound.shape)} instead of {wanted}")
        want(bool(torch.isfinite(sound).all()), "it holds numbers that are infinite or none")
    with torch.no_grad(), contract.line("the same spectrogram gives the same sound"):
        want(torch.equal(vocoder(heard), sound), "another sound")
    with torch.no_grad(), contract.line("twice as many frames give twice as many samples"):
        longer = vocoder(torch.cat([heard, heard], dim=-1))
        want(longer.shape[-1] == 2 * sound.shape[-1], f"{longer.shape[-1]} samples instead of {2 * sound.shape[-1]}")


def _chirps(bands: int, frames: int = 24) -> Tensor:
    """Two spectrograms of one band that rises and one that falls, (2, bands, frames)."""
    rising = torch.linspace(0, bands - 1, frames).long()
    mel = torch.full((2, bands, frames), -11.0)
    for item, places in enumerate((rising, rising.flip(0))):
        mel[item, places, torch.arange(frames)] = 0.0
    return mel
