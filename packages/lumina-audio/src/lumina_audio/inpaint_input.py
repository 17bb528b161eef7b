"""The sound of a request on the time line of its result: what is there, how much of it stays, and what is drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_audio.request import AudioLengthRequest
from lumina_core.errors import ConfigError
from lumina_core.types import InitData


def target_length(request: AudioLengthRequest, sample_rate: int, default_duration: float) -> int:
    """Samples of the result: the seconds asked for, or those of the sound and what is drawn on after it.

    Args:
        rate: samples a second.
        usual: seconds where nothing says it.

    Raises:
        ConfigError: more seconds of the sound are asked for than it has.
    """
    if request.init_audio is None:
        return num_samples(default_duration if request.duration is None else request.duration, sample_rate)
    available = request.init_audio.resampled_to(sample_rate).shape[-1]
    if request.extend is not None:
        return available + num_samples(request.extend, sample_rate)
    if request.duration is None:
        return available
    requested = num_samples(request.duration, sample_rate)
    if requested > available:
        raise ConfigError(
            f"{request.duration:g} seconds are asked for and the sound has {available / sample_rate:.6g}; to draw on after its end "
            f"say so: extend={request.duration - available / sample_rate:.6g} (--extend)"
        )
    return requested


def num_samples(duration: float, sample_rate: int) -> int:
    """The nearest number of samples, at least one."""
    return max(1, round(duration * sample_rate))


def init_data(request: AudioLengthRequest, sample_rate: int, length: int) -> InitData | None:
    """What a request begins from: its sound, and after its end the sound mirrored, as what stays is told by `kept`.

    Args:
        length: samples of the result.

    Raises:
        ConfigError: the span does not lie within the sound.
    """
    if request.init_audio is None:
        return None
    audio = request.init_audio.resampled_to(sample_rate)[:, :length]
    strength = 1.0 if request.strength is None else request.strength
    redraw_mask = _redraw_mask(request.inpaint, sample_rate, audio.shape[-1], length)
    data = audio[:, _mirror_indices(audio.shape[-1], length)]
    if request.inpaint is None and request.extend is None:
        return InitData(data, strength)
    return InitData(
        data, strength, 1 - crossfade_mask(redraw_mask, round((request.crossfade or 0) * sample_rate / 1000))
    )


def crossfade_mask(redraw_mask: Tensor, fade_length: int) -> Tensor:
    """(S,) of 0 and 1 with half a cosine of `width` samples inside every stretch of ones where it begins and ends.

    What is 0 stays 0. Where a stretch is shorter than two slopes they meet in its middle; at the ends of the line there
    is nothing to pass into, and no slope.
    """
    weights = redraw_mask.clone()
    edges = torch.diff(redraw_mask, prepend=redraw_mask[:1], append=redraw_mask[-1:]).nonzero()[:, 0].tolist()
    for edge in edges:
        is_start = bool(redraw_mask[edge]) if edge < len(redraw_mask) else False
        segment = _segment_bounds(redraw_mask, edge if is_start else edge - 1)
        has_both_edges = segment[0] > 0 and segment[1] < len(redraw_mask)
        fade_samples = min(fade_length, (segment[1] - segment[0]) // (2 if has_both_edges else 1))
        slope = (1 - torch.cos(torch.pi * torch.arange(1, fade_samples + 1) / (fade_samples + 1))) / 2
        window = slice(edge, edge + fade_samples) if is_start else slice(edge - fade_samples, edge)
        weights[window] = torch.minimum(weights[window], slope if is_start else slope.flip(0))
    return weights


def _segment_bounds(redraw_mask: Tensor, index: int) -> tuple[int, int]:
    """First place of the stretch of ones around a place, and the first behind it."""
    zeros = (redraw_mask == 0).nonzero()[:, 0]
    before, after = zeros[zeros < index], zeros[zeros > index]
    return int(before[-1]) + 1 if len(before) else 0, int(after[0]) if len(after) else len(redraw_mask)


def _redraw_mask(
    spans: Sequence[Sequence[float | None]] | None, sample_rate: int, available: int, length: int
) -> Tensor:
    """(S,) 1 where a sample is redrawn, 0 where it stays; spans may overlap."""
    redraw_mask = torch.zeros(length)
    redraw_mask[available:] = 1
    for begin, end in spans or ():
        start = begin or 0.0
        first, last = round(start * sample_rate), available if end is None else round(end * sample_rate)
        label = f"the span {start:.7g}-{'' if end is None else f'{end:.7g}'}"
        if first >= available or last > available:
            raise ConfigError(
                f"{label} does not lie within a sound of {available / sample_rate:.6g} seconds; to draw on after its end say "
                "extend"
            )
        if first >= last:
            raise ConfigError(f"{label} holds no sample at {sample_rate} samples a second; make it longer")
        redraw_mask[first:last] = 1
    return redraw_mask


def limit_generated_part(waveform: Tensor, sample_rate: int, metadata: Mapping[str, Any]) -> tuple[Tensor, float]:
    """A sound of which a part was redrawn, that part so soft that a file can hold it; and the factor.

    What stayed stays bit for bit; over the crossfade the factor sets in.

    Args:
        sound: (1, S), what stayed in it within [-1, 1].
        record: of its request, with `inpaint` or `extend`, and `crossfade`.
    """
    length = waveform.shape[-1]
    extension = num_samples(metadata["extend"], sample_rate) if metadata.get("extend") else 0
    redraw_mask = _redraw_mask(metadata.get("inpaint"), sample_rate, length - extension, length)
    factor = 1 / max(1.0, float((waveform.abs() * redraw_mask).max()))
    weights = crossfade_mask(redraw_mask, round((metadata.get("crossfade") or 0) * sample_rate / 1000))
    return (waveform * (1 - (1 - factor) * weights)).clamp(-1, 1), factor


def _mirror_indices(available: int, length: int) -> Tensor:
    """Places of the sound for each sample of the line; after its end they go back and forth.

    A sound that goes on tells what encodes it more truly how its last moments are than one that breaks off.
    """
    if available == 1:
        return torch.zeros(length, dtype=torch.long)
    index = torch.arange(length) % (2 * available - 2)
    return torch.where(index < available, index, 2 * available - 2 - index)
