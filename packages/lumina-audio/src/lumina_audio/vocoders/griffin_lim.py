"""Vocoder without weights: phases by the Griffin-Lim iteration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchaudio.functional import griffinlim

from lumina_audio.mel import MelConfig, MelSpectrogram


class GriffinLim:
    """Vocoder for models without a trained one (Griffin and Lim 1984; fast form by Perraudin et al. 2013).

    Magnitudes are the pseudo-inverse of the mel filterbank. The initial phases have a fixed seed, so that a spectrogram
    always gives the same waveform.
    """

    class Config(MelConfig):
        """Spectrogram, and parameters of the iteration."""

        n_iter: int = Field(32, ge=1, le=1000, description="iterations")
        momentum: float = Field(0.99, ge=0, lt=1, description="momentum of the fast form; 0: the original form")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sample_rate, self.n_mels, self.hop_length = config.sample_rate, config.n_mels, config.hop_length
        self._mel = MelSpectrogram(config)
        with torch.device("cpu"):  # even if the model is built on the meta device
            self._inverse_filterbank = torch.linalg.pinv(self._mel.filterbank.double()).float()

    def __call__(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) to (B, 1, T * hop_length)."""
        # a clip of a few frames is too short for the STFT, which mirrors half a window at both ends
        pad_frames = max(0, self.config.n_fft // (2 * self.hop_length) + 2 - mel.shape[-1])
        padded = F.pad(mel, (0, pad_frames), mode="replicate")
        # one by one, with the same initial phases: an item must not depend on its batch
        return torch.cat([self._invert(item[None]) for item in padded])[..., : mel.shape[-1] * self.hop_length]

    def _invert(self, mel: Tensor) -> Tensor:
        config, hop_length = self.config, self.hop_length
        with torch.autocast(mel.device.type, enabled=False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spectrum = (self._inverse_filterbank.to(mel.device) @ mel.float().exp()).clamp_min(0)
            waveform = griffinlim(
                spectrum, self._mel.window.to(mel.device), n_fft=config.n_fft, hop_length=hop_length, length=None,
                win_length=config.n_fft, power=1.0, n_iter=config.n_iter, momentum=config.momentum, rand_init=True,
            )  # fmt: skip
        # its frames are centered on multiples of the hop, ours half a hop later
        return F.pad(waveform, (hop_length // 2, hop_length - hop_length // 2))[:, None]
