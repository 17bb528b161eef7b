"""The sound of a request on the time line of its result: what is there, how much of it stays, and what is drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_audio.asked import TimedRequest
from lumina_core.errors import ConfigError
from lumina_core.types import Known


def length_of(request: TimedRequest, rate: int, usual: float) -> int:
    """Samples of the result: the seconds asked for, or those of the sound and what is drawn on after it.

    Args:
        rate: samples a second.
        usual: seconds where nothing says it.

    Raises:
        ConfigError: more seconds of the sound are asked for than it has.
    """
    if request.sound is None:
        return samples(usual if request.seconds is None else request.seconds, rate)
    there = request.sound.at(rate).shape[-1]
    if request.continuation is not None:
        return there + samples(request.continuation, rate)
    if request.seconds is None:
        return there
    asked = samples(request.seconds, rate)
    if asked > there:
        raise ConfigError(
            f"{request.seconds:g} seconds are asked for and the sound has {there / rate:.6g}; to draw on after its end "
            f"say so: continue={request.seconds - there / rate:.6g} (--continue)"
        )
    return asked


def samples(seconds: float, rate: int) -> int:
    """The nearest number of samples, at least one."""
    return max(1, round(seconds * rate))


def known_of(request: TimedRequest, rate: int, length: int) -> Known | None:
    """What a request begins from: its sound, and after its end the sound mirrored, as what stays is told by `kept`.

    Args:
        length: samples of the result.

    Raises:
        ConfigError: the span does not lie within the sound.
    """
    if request.sound is None:
        return None
    there = request.sound.at(rate)[:, :length]
    strength = 1.0 if request.strength is None else request.strength
    redrawn = _redrawn(request.span, rate, there.shape[-1], length)
    data = there[:, _mirrored(there.shape[-1], length)]
    if request.span is None and request.continuation is None:
        return Known(data, strength)
    return Known(data, strength, 1 - faded(redrawn, round((request.feather or 0) * rate / 1000)))


def faded(redrawn: Tensor, width: int) -> Tensor:
    """(S,) of 0 and 1 with half a cosine of `width` samples inside every stretch of ones where it begins and ends.

    What is 0 stays 0. Where a stretch is shorter than two slopes they meet in its middle; at the ends of the line there
    is nothing to pass into, and no slope.
    """
    shares = redrawn.clone()
    edges = torch.diff(redrawn, prepend=redrawn[:1], append=redrawn[-1:]).nonzero()[:, 0].tolist()
    for place in edges:
        begins = bool(redrawn[place]) if place < len(redrawn) else False
        stretch = _stretch(redrawn, place if begins else place - 1)
        both = stretch[0] > 0 and stretch[1] < len(redrawn)
        count = min(width, (stretch[1] - stretch[0]) // (2 if both else 1))
        slope = (1 - torch.cos(torch.pi * torch.arange(1, count + 1) / (count + 1))) / 2
        part = slice(place, place + count) if begins else slice(place - count, place)
        shares[part] = torch.minimum(shares[part], slope if begins else slope.flip(0))
    return shares


def _stretch(redrawn: Tensor, place: int) -> tuple[int, int]:
    """First place of the stretch of ones around a place, and the first behind it."""
    zeros = (redrawn == 0).nonzero()[:, 0]
    before, behind = zeros[zeros < place], zeros[zeros > place]
    return int(before[-1]) + 1 if len(before) else 0, int(behind[0]) if len(behind) else len(redrawn)


def _redrawn(spans: Sequence[Sequence[float | None]] | None, rate: int, there: int, length: int) -> Tensor:
    """(S,) 1 where a sample is redrawn, 0 where it stays; spans may overlap."""
    redrawn = torch.zeros(length)
    redrawn[there:] = 1
    for begins, end in spans or ():
        start = begins or 0.0
        first, last = round(start * rate), there if end is None else round(end * rate)
        said = f"the span {start:.7g}-{'' if end is None else f'{end:.7g}'}"
        if first >= there or last > there:
            raise ConfigError(
                f"{said} does not lie within a sound of {there / rate:.6g} seconds; to draw on after its end say "
                "continue"
            )
        if first >= last:
            raise ConfigError(f"{said} holds no sample at {rate} samples a second; make it longer")
        redrawn[first:last] = 1
    return redrawn


def drawn_softer(sound: Tensor, rate: int, record: Mapping[str, Any]) -> tuple[Tensor, float]:
    """A sound of which a part was redrawn, that part so soft that a file can hold it; and the factor.

    What stayed stays bit for bit; over the feather the factor sets in.

    Args:
        sound: (1, S), what stayed in it within [-1, 1].
        record: of its request, with `span` or `continuation`, and `feather`.
    """
    length = sound.shape[-1]
    after = samples(record["continuation"], rate) if record.get("continuation") else 0
    redrawn = _redrawn(record.get("span"), rate, length - after, length)
    factor = 1 / max(1.0, float((sound.abs() * redrawn).max()))
    shares = faded(redrawn, round((record.get("feather") or 0) * rate / 1000))
    return (sound * (1 - (1 - factor) * shares)).clamp(-1, 1), factor


def _mirrored(there: int, length: int) -> Tensor:
    """Places of the sound for each sample of the line; after its end they go back and forth.

    A sound that goes on tells what encodes it more truly how its last moments are than one that breaks off.
    """
    if there == 1:
        return torch.zeros(length, dtype=torch.long)
    place = torch.arange(length) % (2 * there - 2)
    return torch.where(place < there, place, 2 * there - 2 - place)
