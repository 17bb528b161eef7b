"""Sines plus noise: phases are running integrals of predicted frequencies, so that steady notes stay in tune."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.mel import overlap_add
from lumina_audio.vocoders.loss import VOCODER_RESOLUTIONS, stft_losses
from lumina_audio.vocoders.vocos import MAX_MAGNITUDE, ConvNeXtBlock
from lumina_core.config import Config as Settings
from lumina_core.protocols import Component
from lumina_core.types import Loss, check_shape

SILENT_LOG = math.log(1e-4)
"""Natural logarithm of the magnitude below which a bin counts as silent."""
CERTAIN, RANDOM = -1.0, 0.2
"""Logarithms of the expected phase error in radians: below the first a bin is a sine, above the second noise."""


@dataclass(frozen=True)
class SineParameters:
    """Parameters of a batch of waveforms; K is sine_fft / 2 + 1, P the points of a frame.

    Attributes:
        log_magnitude: (B, T, K) natural logarithms of STFT magnitudes of the sines.
        advance: (B, T, K) advance of the phase since the last frame in radians, relative to that of the bin's center.
        log_error: (B, T, K) natural logarithms of the expected error of the advance in radians.
        gain: (B, T, P) factors of the sines within a frame.
        noise: (B, T, P, noise_fft / 2 + 1) magnitudes of the noise.
    """

    log_magnitude: Tensor
    advance: Tensor
    log_error: Tensor
    gain: Tensor
    noise: Tensor


class SinesAndNoise(Component, nn.Module):
    """Sines with integrated phases and filtered noise (after Serra and Smith, Computer Music Journal 14, 1990).

    A vocoder whose layers see the spectrogram alone maps a steady note to equal frames: its output repeats with the
    frame rate, whatever the pitch. Here ConvNeXt blocks predict, for each bin of an STFT, a magnitude and the advance
    of the phase between frames, as a phase vocoder measures it. Phases are their running sums; in each step they are
    averaged over neighboring bins, weighted by power, so that the bins of one partial stay locked to its peak (after
    Laroche and Dolson, IEEE Trans. Speech Audio Process. 7, 1999). Bins whose advance is unpredictable are silent;
    noise of shorter windows takes their place (after DDSP, arXiv 2001.04643). A gain within frames keeps attacks sharp.
    Several notes at once need no special case.
    """

    class Config(Settings):
        """Spectrogram, windows, and sizes of the network."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second")
        hop_length: int = Field(256, ge=4, le=8192, description="samples between windows")
        n_mels: int = Field(160, ge=1, le=512, description="number of mel bands")
        sine_fft: int = Field(2048, ge=64, le=16384, description="samples of a window of the sines")
        noise_fft: int = Field(256, ge=16, le=16384, description="samples of a window of the noise")
        points: int = Field(4, ge=1, le=64, description="windows of the noise, and gains of the sines, per frame")
        hidden_size: int = Field(256, ge=8, description="width of the network")
        intermediate_size: int = Field(768, ge=8, description="width of the hidden layer of a block")
        num_layers: int = Field(6, ge=1, le=64, description="number of blocks")
        mel_mean: float = Field(-6.0, description="mean that is subtracted from the spectrogram")
        mel_std: float = Field(3.5, gt=0, description="standard deviation that the spectrogram is divided by")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.n_mels, self.hop_length = config.sample_rate, config.n_mels, config.hop_length
        self.num_bins, self.num_noise_bins = config.sine_fft // 2 + 1, config.noise_fft // 2 + 1
        self.embed = nn.Conv1d(config.n_mels, config.hidden_size, 7, padding=3)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.hidden_size, config.intermediate_size, 1 / config.num_layers)
            for _ in range(config.num_layers)
        )
        self.last_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.sine_head = nn.Linear(config.hidden_size, 3 * self.num_bins)
        self.noise_head = nn.Linear(config.hidden_size, config.points * (1 + self.num_noise_bins))
        for layer in (self.embed, self.sine_head, self.noise_head):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.sine_head.bias[: self.num_bins], SILENT_LOG / 2)  # near silence, as most bins are
        with torch.device("cpu"):  # plain tensors: computed from the config, and not rounded with the weights
            self.sine_window = torch.hann_window(config.sine_fft)
            self.noise_window = torch.hann_window(config.noise_fft)

    def forward(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) to (B, 1, T * hop_length)."""
        parameters = self.parameters_of(mel)
        phases = self.integrate(parameters)
        return self.synthesize(parameters, phases, self._noise(mel.shape[-1], mel.device))

    def parameters_of(self, mel: Tensor) -> SineParameters:
        """Predict the parameters of sines and noise from natural logarithms (B, n_mels, T)."""
        check_shape(mel, (None, self.n_mels, None), "a batch of spectrograms")
        config = self.config
        normalized = ((mel - config.mel_mean) / config.mel_std).to(self.embed.weight.dtype)
        x = self.norm(self.embed(normalized).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        log_magnitude, advance, log_error = self.sine_head(x).float().chunk(3, dim=-1)
        gain, noise = self.noise_head(x).float().split([config.points, config.points * self.num_noise_bins], dim=-1)
        noise = (noise + SILENT_LOG / 2).exp().clamp_max(MAX_MAGNITUDE).unflatten(-1, (config.points, -1))
        return SineParameters(log_magnitude, advance, log_error.clamp(-5.0, 2.0), 2 * gain.sigmoid(), noise)

    @torch.no_grad()
    def integrate(self, parameters: SineParameters, start: Tensor | None = None) -> Tensor:
        """Compute the phase of each bin at the center of each window, as complex numbers (B, T, K) of magnitude 1.

        Args:
            parameters: of the sines.
            start: (B, K) complex, phases of the frame before the first; None: zeros.
        """
        # weights of the average over neighbors: the power of a bin, and a little of everything else
        power = (2 * parameters.log_magnitude).exp().clamp(1e-10, MAX_MAGNITUDE**2)
        steps = torch.polar(power, parameters.advance + self._center_advance(power.device))
        phase = torch.ones_like(steps[:, 0]) if start is None else start
        phases = []
        for step in steps.unbind(1):
            moved = F.pad(phase * step, (1, 1))
            total = moved[:, :-2] + moved[:, 1:-1] + moved[:, 2:]
            phase = total / total.abs().clamp_min(1e-12)
            phases.append(phase)
        return torch.stack(phases, dim=1)

    def synthesize(self, parameters: SineParameters, phases: Tensor, noise: Tensor) -> Tensor:
        """Make the waveform (B, 1, T * hop_length).

        Args:
            parameters: of sines and noise.
            phases: (B, T, K) complex, from `integrate`.
            noise: (1 or B, T * points, noise_fft / 2 + 1) complex normal numbers.
        """
        config = self.config
        is_sine = ((RANDOM - parameters.log_error.detach()) / (RANDOM - CERTAIN)).clamp(0, 1)
        magnitude = parameters.log_magnitude.exp().clamp_max(MAX_MAGNITUDE) * is_sine
        # phases refer to the middle of a window: half a window from its start alternates the sign of bins
        sign = 1 - 2 * (torch.arange(self.num_bins, device=magnitude.device) % 2)
        sines = overlap_add(magnitude * sign * phases, self.sine_window.to(magnitude.device), config.hop_length)
        gain = F.interpolate(parameters.gain.flatten(1)[:, None], size=sines.shape[-1], mode="linear")
        spectrum = parameters.noise.flatten(1, 2) * noise
        noise_hop = config.hop_length // config.points
        return sines * gain + overlap_add(spectrum, self.noise_window.to(magnitude.device), noise_hop)

    def loss(self, mel: Tensor, real: Tensor, generators: Sequence[torch.Generator] | None = None) -> Loss:
        """Compute the training loss for spectrograms (B, n_mels, T) of waveforms (B, 1, T * hop_length).

        Terms: the Laplace likelihood of the true advances of the phase, weighted by the root of the magnitude; the
        error of the sines' log-magnitudes; the multi-resolution STFT distance of the waveform; the error of energies in
        bands of time and frequency, which keeps the level of noise.

        Args:
            mel: natural logarithms, some of which passed through an autoencoder.
            real: waveforms in [-1, 1].
            generators: one per item, on the CPU, of initial phases and noise; None: drawn on the device of `mel`.
        """
        parameters = self.parameters_of(mel)
        true = self._true_spectrum(real)
        magnitude = true.abs().clamp_min(1e-6)
        advance = (true[:, 1:] * true[:, :-1].conj()).angle() - self._center_advance(true.device)
        error = _wrap(parameters.advance[:, 1:] - advance).abs()
        log_error = parameters.log_error[:, 1:]
        weight = (magnitude[:, 1:] * magnitude[:, :-1]).pow(0.25)
        weight = weight / weight.mean((1, 2), keepdim=True).clamp_min(1e-2)
        phase = ((error * (-log_error).exp() + log_error) * weight).mean()
        sine = (parameters.log_magnitude - magnitude.log()).abs().clamp_max(4.0)
        sine = (sine * (magnitude.log() - SILENT_LOG).clamp(0.0, 1.0)).mean()
        shape = (mel.shape[-1] * self.config.points, self.num_noise_bins, 2)
        start, noise = (
            self._random_start(len(mel), generators, mel.device),
            _draw(len(mel), shape, generators, mel.device),
        )
        made = self.synthesize(parameters, self.integrate(parameters, start), torch.view_as_complex(noise))
        resolutions = [(n_fft, hop) for n_fft, hop in VOCODER_RESOLUTIONS if n_fft <= real.shape[-1]]
        convergence, log_distance = (distance.mean() for distance in stft_losses(made, real, resolutions))
        energy = band_energy_distance(made, real)
        total = phase + 0.2 * sine + convergence + log_distance + energy
        terms = {"phase": phase, "sine": sine, "spectral_convergence": convergence, "log_magnitude": log_distance}
        return Loss(total, {name: value.detach() for name, value in {**terms, "energy": energy}.items()})

    def no_muon(self) -> set[str]:
        """Return the matrices of the output layers, which Muon does not train."""
        return {"sine_head.weight", "noise_head.weight"}

    def _random_start(self, batch: int, generators: Sequence[torch.Generator] | None, device: torch.device) -> Tensor:
        """Draw phases (B, K) of magnitude 1."""
        drawn = torch.view_as_complex(_draw(batch, (self.num_bins, 2), generators, device))
        return drawn / drawn.abs().clamp_min(1e-6)

    def _center_advance(self, device: torch.device) -> Tensor:
        # reduced to one turn before the rounding of float32
        bins = torch.arange(self.num_bins, device=device)
        return 2 * math.pi * ((bins * self.hop_length) % self.config.sine_fft) / self.config.sine_fft

    def _true_spectrum(self, real: Tensor) -> Tensor:
        """Compute the STFT (B, T, K) of (B, 1, T * hop_length) with the windows of the sines."""
        padding = (self.config.sine_fft - self.hop_length) // 2
        padded = F.pad(real.float(), (padding, padding), mode="reflect")[:, 0]
        window = self.sine_window.to(real.device)
        spectrum = torch.stft(
            padded, self.config.sine_fft, self.hop_length, window=window, center=False, return_complex=True
        )
        return spectrum.transpose(1, 2)

    def _noise(self, length: int, device: torch.device) -> Tensor:
        """Draw complex normal numbers (1, T * points, bins), the same for each call and item, the beginning of a
        longer draw: a spectrogram always gives the same waveform."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, length * self.config.points, self.num_noise_bins, 2)
        return torch.view_as_complex(torch.randn(shape, generator=generator)).to(device)


def band_energy_distance(made: Tensor, real: Tensor) -> Tensor:
    """Compute the mean absolute difference of log-energies in bands of 1/32 of the spectrum and 4 frames.

    Magnitudes of single bins of noise are random; their energy over a band is not, so that this distance is smallest
    at the right level of noise.

    Args:
        made: (B, 1, S), S at least 1024.
        real: (B, 1, S).
    """
    distances = []
    for n_fft in (256, 1024):
        window = torch.hann_window(n_fft, device=real.device)
        first, second = (
            F.avg_pool2d(
                torch.stft(wave[:, 0].float(), n_fft, n_fft // 4, window=window, center=False, return_complex=True)
                .abs()
                .square()[:, 1:, None]
                .transpose(1, 2),
                (n_fft // 64, 4),
            )
            for wave in (made, real)
        )
        distances.append(((first + 1e-6).log() - (second + 1e-6).log()).abs().mean())
    return torch.stack(distances).mean() / 2


def _draw(
    batch: int, shape: tuple[int, ...], generators: Sequence[torch.Generator] | None, device: torch.device
) -> Tensor:
    """Draw normal numbers (B, *shape), each item by its generator (CPU); without generators, on the device."""
    if generators is None:
        return torch.randn(batch, *shape, device=device)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def _wrap(angle: Tensor) -> Tensor:
    """Reduce angles to -pi..pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
