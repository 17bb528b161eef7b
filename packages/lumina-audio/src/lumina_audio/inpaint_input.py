"""Audio-to-audio, inpainting and extension: initial data, keep mask, and the level of the generated part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lumina_audio.request import AudioLengthRequest
from lumina_core.errors import ConfigError
from lumina_core.types import InitData

if TYPE_CHECKING:
    from torch import Tensor


MATCHED_SECONDS, LAG_SECONDS = 0.032, (0.02, 0.5)
"""Length of the end of a clip that its continuation is matched by, and the shortest and longest part repeated."""


def num_samples(duration: float, sample_rate: int) -> int:
    """Convert seconds to the nearest number of samples, at least one."""
    return max(1, round(duration * sample_rate))


def target_length(request: AudioLengthRequest, sample_rate: int, default_duration: float) -> int:
    """Compute the number of samples of the result.

    Args:
        request: its `duration` counts first, then the length of `init_audio` plus `extend`.
        sample_rate: samples per second of the model.
        default_duration: seconds, if the request has neither duration nor audio.

    Raises:
        ConfigError: the duration is longer than `init_audio`.
    """
    if request.init_audio is None:
        return num_samples(default_duration if request.duration is None else request.duration, sample_rate)
    available: int = request.init_audio.resampled_to(sample_rate).shape[-1]
    if request.extend is not None:
        return available + num_samples(request.extend, sample_rate)
    if request.duration is None:
        return available
    requested = num_samples(request.duration, sample_rate)
    if requested > available:
        raise ConfigError(
            f"duration: got {request.duration:g} s, expected at most the {available / sample_rate:.6g} s of init_audio."
            f" To continue after its end, set extend={request.duration - available / sample_rate:.6g}."
        )
    return requested


def init_data(request: AudioLengthRequest, sample_rate: int, length: int) -> InitData | None:
    """Create the initial data of a request; None without `init_audio`.

    With inpainting or extension, the keep mask is 1 where the audio stays and 0 where it is generated, with cosine
    slopes between. After the end of the audio, the data repeat its last part without a break: the generated part fades
    in from there, and an autoencoder encodes the last moments more faithfully than before an abrupt end.

    Args:
        request: with `init_audio`, `strength`, `inpaint`, `extend` and `crossfade`.
        sample_rate: samples per second of the model.
        length: samples of the result.

    Raises:
        ConfigError: a span of `inpaint` does not lie within the audio.
    """
    if request.init_audio is None:
        return None
    audio = request.init_audio.resampled_to(sample_rate)[:, :length]
    available = audio.shape[-1]
    strength = 1.0 if request.strength is None else request.strength
    data = _continuation(audio, sample_rate, length)
    if request.inpaint is None and request.extend is None:
        return InitData(data, strength)
    generate_mask = _generate_mask(request.inpaint, sample_rate, available, length)
    return InitData(data, strength, 1 - crossfade_mask(generate_mask, _fade_samples(request.crossfade, sample_rate)))


def crossfade_mask(generate_mask: Tensor, fade_length: int) -> Tensor:
    """Replace the steps of a mask by half-cosine slopes inside its segments of ones.

    A segment shorter than two slopes gets slopes that meet in its middle. A segment that begins or ends the clip has
    no slope there. Zeros stay 0.

    Args:
        generate_mask: (S,) of 0 and 1.
        fade_length: samples of a slope.
    """
    import torch

    weights = generate_mask.clone()
    padded = torch.cat([torch.zeros(1), generate_mask, torch.zeros(1)])
    steps = padded.diff()
    starts, ends = (steps > 0).nonzero()[:, 0].tolist(), (steps < 0).nonzero()[:, 0].tolist()
    for start, end in zip(starts, ends, strict=True):
        has_start, has_end = start > 0, end < len(generate_mask)
        length = min(fade_length, (end - start) // max(1, has_start + has_end))
        slope = (1 - torch.cos(torch.pi * torch.arange(1, length + 1) / (length + 1))) / 2
        if has_start:
            weights[start : start + length] = slope
        if has_end:
            weights[end - length : end] = torch.minimum(weights[end - length : end], slope.flip(0))
    return weights


def limit_generated_part(waveform: Tensor, sample_rate: int, metadata: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Scale the generated part of a clip down to full scale; the preserved part is unchanged, bit for bit.

    Args:
        waveform: (1, S), its preserved part within [-1, 1].
        sample_rate: samples per second.
        metadata: of the result, with `inpaint` or `extend`, and `crossfade`.

    Returns:
        The waveform, and the factor that the generated part was multiplied by; it sets in over the crossfade.
    """
    length = waveform.shape[-1]
    extension = num_samples(metadata["extend"], sample_rate) if metadata.get("extend") else 0
    generate_mask = _generate_mask(metadata.get("inpaint"), sample_rate, length - extension, length)
    factor = 1 / max(1.0, float((waveform.abs() * generate_mask).max()))
    weights = crossfade_mask(generate_mask, _fade_samples(metadata.get("crossfade"), sample_rate))
    return (waveform * (1 - (1 - factor) * weights)).clamp(-1, 1), factor


def _fade_samples(crossfade: float | None, sample_rate: int) -> int:
    return round((crossfade or 0) * sample_rate / 1000)


def _generate_mask(
    spans: Sequence[Sequence[float | None]] | None, sample_rate: int, available: int, length: int
) -> Tensor:
    """Create a mask (S,): 1 for samples that are generated, 0 for samples that stay; spans may overlap."""
    import torch

    mask = torch.zeros(length)
    mask[available:] = 1
    for begin, end in spans or ():
        start = begin or 0.0
        first, last = round(start * sample_rate), available if end is None else round(end * sample_rate)
        label = f"inpaint: got {start:.7g}-{'' if end is None else f'{end:.7g}'}"
        if first >= available or last > available:
            raise ConfigError(
                f"{label}, expected a span within the {available / sample_rate:.6g} s of init_audio. To continue after "
                "its end, set extend."
            )
        if first >= last:
            raise ConfigError(f"{label}, expected at least one sample at {sample_rate} Hz. Make the span longer.")
        mask[first:last] = 1
    return mask


def _continuation(audio: Tensor, sample_rate: int, length: int) -> Tensor:
    """Continue audio (1, S) to (1, length) by repeating its last samples, as many as join most smoothly.

    The lag is the one at which the audio differs least from its last 32 ms: a number of periods of a tone, so that
    phase and slope go on at the joint, as in the concealment of lost packets (ITU-T G.711, appendix I).
    """
    import torch

    wave, available = audio[0], audio.shape[-1]
    if available == 1:
        return audio.expand(1, length)
    matched = max(1, min(round(MATCHED_SECONDS * sample_rate), available // 2))
    min_lag, max_lag = (min(round(lag * sample_rate), available - matched) for lag in LAG_SECONDS)
    earlier = wave[available - matched - max_lag : available - max(1, min(min_lag, max_lag // 2))].unfold(0, matched, 1)
    lag = max_lag - int((earlier - wave[-matched:]).square().sum(1).argmin())
    index = torch.arange(length)
    return audio[:, torch.where(index < available, index, available - lag + (index - available) % lag)]
