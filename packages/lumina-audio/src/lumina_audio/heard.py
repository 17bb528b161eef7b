"""Sounds that a request plays to the model: from a file, bytes, an array or a tensor; decoded within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, InstanceOf, PlainSerializer
from torch import Tensor

from lumina_audio.sounds import MOST_CHANNELS, RATES, SoundError, check_header, read_sound, resampled
from lumina_core.sources.once import read_once


@dataclass(frozen=True, eq=False)
class Heard:
    """A sound as it was handed over.

    Attributes:
        waveform: (1, S) float32 in [-1, 1].
        rate: samples a second; None: those of the model that hears it.
        name: of its file; empty where it was none.
        notes: what one should know of it, in words: silence, clipping.
    """

    waveform: Tensor
    rate: int | None = None
    name: str = ""
    notes: tuple[str, ...] = ()

    def at(self, rate: int) -> Tensor:
        """(1, S) with `rate` samples a second."""
        return self.waveform if self.rate in (None, rate) else _moved(self, rate)

    def seconds(self, rate: int) -> float:
        """How long it lasts for a model of `rate` samples a second."""
        return self.waveform.shape[-1] / (self.rate or rate)

    def told(self) -> dict[str, str]:
        """What belongs into a record: the file's name, and a digest of rate and samples."""
        digest = hashlib.sha256(f"{self.rate}".encode() + self.waveform.contiguous().numpy().tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "sha256": digest}


def heard(value: Any) -> Heard:
    """A path, the bytes of a file, an array or a tensor as a sound.

    Args:
        value: tensors and arrays are of floats in [-1, 1], (samples,) or (channels, samples), at the model's own rate,
            as answers have them; a pair (tensor, rate) says its rate. Channels are mixed to one.

    Raises:
        ValueError: it is none of these, cannot be decoded, is too large, or holds what is no number.
    """
    if isinstance(value, Heard):
        return value
    if isinstance(value, str | Path):
        return _from_file(Path(value))
    if isinstance(value, bytes):
        try:
            return _read(value)
        except SoundError as error:
            raise ValueError(f"what was given cannot be used as a sound: {error}") from error
    pair = isinstance(value, Sequence) and len(value) == 2 and isinstance(value[1], int)
    waveform, rate = value if pair else (value, None)
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.ascontiguousarray(waveform))
    fits = (
        isinstance(waveform, Tensor) and waveform.is_floating_point() and waveform.ndim in (1, 2) and waveform.numel()
    )
    if not fits:
        raise ValueError(
            "a sound is a path, the bytes of a file, a tensor or an array of floats, (samples,) or (channels, samples) "
            "in [-1, 1], or such a one with its rate"
        )
    if rate is not None and not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sound of {rate} samples a second was given; wanted {RATES[0]} to {RATES[1]}")
    if waveform.ndim == 2 and waveform.shape[0] > MOST_CHANNELS:
        came = tuple(waveform.shape)
        raise ValueError(
            f"a sound is (channels, samples), of up to {MOST_CHANNELS} channels, and {came} was given; turn it"
        )
    return _checked(waveform, rate)


HeardSound = Annotated[InstanceOf[Heard], BeforeValidator(heard), PlainSerializer(Heard.told)]
"""The type of a request's field; in a record it is a name and a digest."""


def _read(held: Path | bytes, name: str = "") -> Heard:
    rate = check_header(held).rate
    sound = read_sound(held, rate)
    return Heard(sound.waveform, rate, name, sound.notes)


_from_file = read_once(lambda path: _read(path, path.name), "a sound")


def _checked(waveform: Tensor, rate: int | None) -> Heard:
    flat = waveform.detach().float().cpu()
    wrong = int((~torch.isfinite(flat)).sum())
    if wrong:
        raise ValueError(f"{wrong} of the sound's {flat.numel()} samples are no numbers (NaN or infinite)")
    mono = flat[None] if flat.ndim == 1 else flat.mean(dim=0, keepdim=True)
    return Heard(mono.clone(), rate)


@lru_cache(maxsize=4)
def _moved(sound: Heard, rate: int) -> Tensor:
    return resampled(sound.waveform, sound.rate or rate, rate)
