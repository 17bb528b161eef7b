"""Tuning of a vocoder's output: its harmonic sounds are synthesized again at the pitch that the spectrogram shows.

A vocoder whose layers see frames of a spectrogram alone maps a steady note to equal frames, so that its output repeats
with the frame rate. The spectrogram tells the pitch far more exactly: partials are peaks between bands, and all of them
are multiples of one fundamental. Our own; the synthesis is that of sinusoidal models (McAulay and Quatieri, IEEE Trans.
Acoust. Speech Signal Process. 34, 1986).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_audio.mel import MelSpectrogram, overlap_add

LOWEST_BANDS, HIGHEST_HERTZ, CENTS = 1.6, 1000.0, 12.0
"""Lowest fundamental in bands, below which partials are not resolved, highest one, and the step between candidates."""
TOP_HERTZ, NUM_PEAKS, MAX_HARMONIC = 2200.0, 24, 20
"""Highest partial, number of partials, and highest multiple that a fundamental is fitted to."""
NEAR_BEST, MIN_SCORE, MIN_EXPLAINED = 0.88, 0.75, 0.85
"""The highest candidate with this share of the best score is chosen; least score, and least share of partials that are
its multiples, of a harmonic frame."""
SMOOTHING, MAX_DEVIATION_CENTS, MIN_FRAMES = 7, 40.0, 4
"""Frames of the median of the pitch, largest distance from it, and least number of harmonic frames among them."""
TUNED_HARMONICS = 24
"""Multiples that are synthesized; frequencies above remain as the vocoder made them."""
KEPT = 0.25
"""Share of the vocoder's amplitude that stays below the sines: what is between the partials, at -12 dB."""
SILENT_LOG = -7.5
"""Natural logarithm of a band below which it has no partial."""


@torch.no_grad()
def fundamental_track(mel: Tensor, transform: MelSpectrogram) -> tuple[Tensor, Tensor]:
    """Find the fundamental frequency of each frame of a spectrogram.

    Partials are the peaks of the spectrogram over bands, located by a parabola. The score of a candidate is the mean of
    cos(2 pi partial / candidate), weighted by the prominence of the partials; the best is fitted to the partials by
    least squares, and the pitch of a frame has to agree with the median of its neighbors.

    Args:
        mel: (B, n_mels, T), natural logarithms.
        transform: computes such spectrograms.

    Returns:
        (B, T) hertz, and (B, T) whether a frame is harmonic; chords and noise are not.
    """
    batch, _, frames = mel.shape
    rows = mel.float().transpose(1, 2).flatten(0, 1)
    centers = _band_centers(transform, mel.device)
    lowest = LOWEST_BANDS * float(centers[2] - centers[1])
    partial, weight = _partials(rows, centers)
    value, score = _best_candidate(partial, weight, lowest)
    for _ in range(4):
        multiple = (partial / value[:, None]).round()
        offset = (partial / value[:, None] - multiple).abs()
        fit = weight * (offset < 0.25) * (multiple >= 1) * (multiple <= MAX_HARMONIC) / (1 + (offset / 0.08).square())
        norm = (fit * multiple.square()).sum(1)
        value = torch.where(norm > 0, (fit * multiple * partial).sum(1) / norm.clamp_min(1e-9), value)
    turns = partial / value[:, None]
    explained = weight * ((turns - turns.round()).abs() < 0.15) * (turns >= 0.5)
    share = explained.sum(1) / weight.sum(1).clamp_min(1e-9)
    is_harmonic = (score > MIN_SCORE) & (share > MIN_EXPLAINED) & (weight.sum(1) > 0)
    is_harmonic &= (value >= lowest) & (value <= 1.02 * HIGHEST_HERTZ)
    return _smooth(value.view(batch, frames), is_harmonic.view(batch, frames))


@torch.no_grad()
def tune_to_mel(waveform: Tensor, mel: Tensor, transform: MelSpectrogram) -> Tensor:
    """Synthesize the harmonic sounds of a waveform again at the pitch of its spectrogram.

    In harmonic frames, the first partials are sines at multiples of the fundamental, whose phases are running integrals
    of the frequency and whose amplitudes follow the spectrogram; the waveform is attenuated by 12 dB there. All else is
    unchanged.

    Args:
        waveform: (B, 1, T * hop), the output of a vocoder.
        mel: (B, n_mels, T), natural logarithms.
        transform: computes such spectrograms.
    """
    hertz, is_harmonic = fundamental_track(mel, transform)
    if not bool(is_harmonic.any()):
        return waveform
    hop_length = transform.config.hop_length
    presence = F.avg_pool1d(F.pad(is_harmonic.float()[:, None], (1, 1), mode="replicate"), 3, 1)[:, 0]
    presence = presence * is_harmonic
    rest = _attenuate_harmonics(waveform, presence, hertz, transform)
    amplitudes = _amplitudes(mel, hertz, transform) * presence[..., None]
    sines = _sines(amplitudes, _track_through(hertz, is_harmonic), transform.config.sample_rate, hop_length)
    return rest + _sharpen(sines, waveform, hop_length)


def _band_centers(transform: MelSpectrogram, device: torch.device) -> Tensor:
    """Return the mean frequency of each band in hertz (n_mels,)."""
    filterbank = transform.filterbank.to(device)
    bins = torch.arange(filterbank.shape[1], device=device) * transform.config.sample_rate / transform.config.n_fft
    centers: Tensor = (filterbank * bins).sum(1) / filterbank.sum(1).clamp_min(1e-9)
    return centers


def _partials(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Find partials (F, P) in hertz and their weights in spectra (F, n_mels)."""
    count = int((centers < TOP_HERTZ).sum())
    bands, centers = rows[:, :count], centers[:count]
    left, middle, right = bands[:, :-2], bands[:, 1:-1], bands[:, 2:]
    offset = ((left - right) / (2 * (left - 2 * middle + right)).clamp_max(-1e-4)).clamp(-0.6, 0.6)
    hertz = centers[1:-1] + offset * (centers[2:] - centers[:-2]) / 2
    # prominence over neighbors up to half the distance of partials of a low note
    reach = max(2, round(55.0 / float(centers[2] - centers[1])))
    around = F.avg_pool1d(F.pad(bands[:, None], (reach, reach), mode="replicate"), 2 * reach + 1, 1)[:, 0, 1:-1]
    weight = (middle - around).clamp(0, 2) * ((middle - bands.amax(1, keepdim=True)) * 0.35).exp()
    weight = weight * (middle >= left) * (middle > right) * (middle > SILENT_LOG)
    strongest = weight.topk(min(NUM_PEAKS, weight.shape[1]), dim=1)
    return hertz.gather(1, strongest.indices), strongest.values


def _best_candidate(partial: Tensor, weight: Tensor, lowest: float) -> tuple[Tensor, Tensor]:
    """Choose a fundamental for partials (F, P): hertz and score (F,)."""
    count = int(math.log2(HIGHEST_HERTZ / lowest) * 1200 / CENTS) + 1
    order = torch.arange(count, device=partial.device)
    candidates = lowest * 2 ** (order * CENTS / 1200)
    turns = partial[:, None] / candidates[:, None]
    agreement = torch.cos(2 * math.pi * turns) - (turns < 0.6).float()  # a partial below the fundamental
    score = (agreement * weight[:, None]).sum(2) / weight.sum(1, keepdim=True).clamp_min(1e-9)
    best = score.amax(1)
    chosen = torch.where(score >= NEAR_BEST * best[:, None], order, -1).amax(1)
    return candidates[chosen.clamp_min(0)], best


def _smooth(hertz: Tensor, is_harmonic: Tensor) -> tuple[Tensor, Tensor]:
    """Replace outliers of a track (B, T) by the median of their neighbors, and drop frames without such neighbors."""
    side = SMOOTHING // 2
    logs = hertz.log2().masked_fill(~is_harmonic, torch.nan)
    windows = F.pad(logs, (side, side), value=torch.nan).unfold(1, SMOOTHING, 1)
    median = windows.nanmedian(2).values
    near = (windows - median[..., None]).abs() < MAX_DEVIATION_CENTS / 1200
    is_steady = near.sum(2) >= MIN_FRAMES
    agrees = is_harmonic & ((logs - median).abs() < MAX_DEVIATION_CENTS / 1200)
    track = torch.where(agrees, logs, median)
    return (2 ** track.nan_to_num(5.0)), is_steady & ~median.isnan()


def _track_through(hertz: Tensor, is_harmonic: Tensor) -> Tensor:
    """Continue the frequency of harmonic frames into the frames between them (B, T)."""
    frames = hertz.shape[1]
    index = torch.arange(frames, device=hertz.device).expand_as(hertz)
    last = torch.where(is_harmonic, index, -1).cummax(1).values
    following = torch.where(is_harmonic, index, frames).flip(1).cummin(1).values.flip(1)
    source = torch.where((last >= 0) & (index - last <= following - index), last, following).clamp(0, frames - 1)
    source = torch.where((following >= frames) & (last >= 0), last, source)
    return hertz.gather(1, source)


def _amplitudes(mel: Tensor, hertz: Tensor, transform: MelSpectrogram) -> Tensor:
    """Compute amplitudes (B, T, TUNED_HARMONICS) of sines with which the bands have their magnitude."""
    config = transform.config
    filterbank = transform.filterbank.to(mel.device)
    bins = torch.arange(filterbank.shape[1], device=mel.device) * config.sample_rate / config.n_fft
    centers = _band_centers(transform, mel.device)
    base = hertz.flatten()[:, None]
    distance = (bins - (bins / base).round().clamp_min(1) * base) * config.n_fft / config.sample_rate
    # main lobe of a Hann window
    pole = 1 - distance.square()
    is_pole = pole.abs() < 1e-3
    lobe = torch.where(is_pole, 0.5, torch.sinc(distance) / torch.where(is_pole, 1.0, pole)).abs() * (
        distance.abs() < 2
    )
    unit = lobe @ filterbank.T  # bands of a comb of magnitude 1
    bands = mel.float().transpose(1, 2).flatten(0, 1).exp()
    smooth = torch.tensor([[[0.5, 1.0, 0.5]]], device=mel.device)
    summed, norm = (F.conv1d(part[:, None], smooth, padding=1)[:, 0] for part in (bands, unit))
    envelope = (summed / norm.clamp_min(1e-6)).clamp(1e-5, 1e3).log()
    multiples = torch.arange(1, TUNED_HARMONICS + 1, device=mel.device)
    wanted = base * multiples
    upper = torch.searchsorted(centers, wanted.contiguous()).clamp(1, len(centers) - 1)
    share = ((wanted - centers[upper - 1]) / (centers[upper] - centers[upper - 1])).clamp(0, 1)
    level = envelope.gather(1, upper - 1) * (1 - share) + envelope.gather(1, upper) * share
    amplitude = 4 / config.n_fft * level.exp() * (wanted < min(config.f_max, config.sample_rate / 2) - 50)
    return amplitude.view(*hertz.shape, -1)


def _sines(amplitudes: Tensor, hertz: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """Sum sines of amplitudes (B, T, N) at multiples of hertz (B, T), of the middles of frames: (B, 1, T * hop)."""
    samples = hertz.shape[1] * hop_length
    frequency = F.interpolate(hertz[:, None].double(), size=samples, mode="linear")[:, 0]
    phase = 2 * math.pi * torch.remainder((frequency / sample_rate).cumsum(1), 1.0)
    turn = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
    rotated, total = torch.ones_like(turn), torch.zeros_like(turn.real)
    count = amplitudes.shape[-1]
    for n in range(count):
        rotated = rotated * turn
        # phases that grow with the square of the number keep the peak low (Schroeder, 1970)
        start = math.pi * n * n / count
        level = F.interpolate(amplitudes[None, :, :, n], size=samples, mode="linear")[0]
        total += level * (rotated.real * math.cos(start) - rotated.imag * math.sin(start))
    return total[:, None]


def _attenuate_harmonics(waveform: Tensor, presence: Tensor, hertz: Tensor, transform: MelSpectrogram) -> Tensor:
    """Attenuate the frequencies that are synthesized in the frames (B, T) where they are present."""
    config = transform.config
    window = transform.window.to(waveform.device)
    spectrum = torch.stft(
        transform.pad(waveform.float()), config.n_fft, config.hop_length, window=window, center=False,
        return_complex=True,
    ).transpose(1, 2)  # fmt: skip
    bins = torch.arange(spectrum.shape[2], device=waveform.device) * config.sample_rate / config.n_fft
    border = (TUNED_HARMONICS + 0.5) * hertz[..., None]
    below = ((border - bins) / (0.05 * border) + 0.5).clamp(0, 1)
    return overlap_add(spectrum * (1 - (1 - KEPT) * below * presence[..., None]), window, config.hop_length)


def _sharpen(sines: Tensor, waveform: Tensor, hop_length: int) -> Tensor:
    """Silence the sines where the waveform is silent: before an attack, which frames of a spectrogram blur."""
    step, reach = hop_length // 4, 11
    loudest, level = (
        F.max_pool1d(F.avg_pool1d(wave.square(), step), reach, 1, reach // 2).sqrt() for wave in (waveform, sines)
    )
    gain = (2 * loudest / level.clamp_min(1e-5)).clamp(0, 1)
    return sines * F.interpolate(gain, size=sines.shape[-1], mode="linear")
