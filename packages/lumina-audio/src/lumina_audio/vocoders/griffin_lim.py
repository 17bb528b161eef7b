"""Spectrogram -> sound without any weights: phases that agree with each other are sought in rounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchaudio.functional import griffinlim

from lumina_audio.mel import MelConfig, MelSpectrogram


class GriffinLim:
    """The fallback where no vocoder was trained (Griffin and Lim 1984; the fast form, Perraudin et al. 2013).

    Bands are spread back over frequencies by the pseudo-inverse of the mel bank. The first phases are drawn with a
    fixed seed, so that a spectrogram always gives the same sound.
    """

    class Config(MelConfig):
        """Which spectrograms it reads, and how long it seeks."""

        n_iter: int = Field(32, ge=1, le=1000, description="rounds of the search")
        momentum: float = Field(0.99, ge=0, lt=1, description="0 is the original form")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sample_rate, self.n_mels, self.hop_length = config.sample_rate, config.n_mels, config.hop_length
        self._mel = MelSpectrogram(config)
        with torch.device("cpu"):  # a model may be built where tensors hold no numbers
            self._inverse_filterbank = torch.linalg.pinv(self._mel.filterbank.double()).float()

    def __call__(self, mel: Tensor) -> Tensor:
        """(B, bands, T) natural logarithms -> (B, 1, T * hop)."""
        # one by one, each with the same first phases: an item must not depend on its neighbours
        # a transform mirrors half a window at both ends, for which a sound of a few frames is too short
        pad_frames = max(0, self.config.n_fft // (2 * self.hop_length) + 2 - mel.shape[-1])
        padded = F.pad(mel, (0, pad_frames), mode="replicate")
        return torch.cat([self._invert(item[None]) for item in padded])[..., : mel.shape[-1] * self.hop_length]

    def _invert(self, mel: Tensor) -> Tensor:
        config = self.config
        with torch.autocast(mel.device.type, enabled=False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spectrum = (self._inverse_filterbank.to(mel.device) @ mel.float().exp()).clamp_min(0)
            window = self._mel.window.to(mel.device)
            waveform = griffinlim(
                spectrum, window, config.n_fft, config.hop_length, config.n_fft, 1.0, config.n_iter, config.momentum,
                None, True,
            )  # fmt: skip
        # its frames are centred on multiples of the hop, ours half a hop later
        return F.pad(waveform, (config.hop_length // 2, config.hop_length - config.hop_length // 2))[:, None]
