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

from lumina_audio.audio_io import MAX_CHANNELS, SAMPLE_RATE_RANGE, AudioError, read_audio, read_header, resample
from lumina_core.data.source import cached_read


@dataclass(frozen=True, eq=False)
class AudioInput:
    """A sound as it was handed over.

    Attributes:
        waveform: (1, S) float32 in [-1, 1].
        rate: samples a second; None: those of the model that hears it.
        name: of its file; empty where it was none.
        notes: what one should know of it, in words: silence, clipping.
    """

    waveform: Tensor
    sample_rate: int | None = None
    name: str = ""
    notes: tuple[str, ...] = ()

    def resampled_to(self, sample_rate: int) -> Tensor:
        """(1, S) with `rate` samples a second."""
        return self.waveform if self.sample_rate in (None, sample_rate) else _resample(self, sample_rate)

    def duration(self, sample_rate: int) -> float:
        """How long it lasts for a model of `rate` samples a second."""
        return self.waveform.shape[-1] / (self.sample_rate or sample_rate)

    def metadata(self) -> dict[str, str]:
        """What belongs into a record: the file's name, and a digest of rate and samples."""
        digest = hashlib.sha256(
            f"{self.sample_rate}".encode() + self.waveform.contiguous().numpy().tobytes()
        ).hexdigest()
        return {**({"name": self.name} if self.name else {}), "sha256": digest}


def parse_audio(value: Any) -> AudioInput:
    """A path, the bytes of a file, an array or a tensor as a sound.

    Args:
        value: tensors and arrays are of floats in [-1, 1], (samples,) or (channels, samples), at the model's own rate,
            as answers have them; a pair (tensor, rate) says its rate. Channels are mixed to one.

    Raises:
        ValueError: it is none of these, cannot be decoded, is too large, or holds what is no number.
    """
    if isinstance(value, AudioInput):
        return value
    if isinstance(value, str | Path):
        return _load_file(Path(value))
    if isinstance(value, bytes):
        try:
            return _decode(value)
        except AudioError as error:
            raise ValueError(f"what was given cannot be used as a sound: {error}") from error
    has_rate = isinstance(value, Sequence) and len(value) == 2 and isinstance(value[1], int)
    waveform, sample_rate = value if has_rate else (value, None)
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.ascontiguousarray(waveform))
    is_valid = (
        isinstance(waveform, Tensor) and waveform.is_floating_point() and waveform.ndim in (1, 2) and waveform.numel()
    )
    if not is_valid:
        raise ValueError(
            "a sound is a path, the bytes of a file, a tensor or an array of floats, (samples,) or (channels, samples) "
            "in [-1, 1], or such a one with its rate"
        )
    if sample_rate is not None and not SAMPLE_RATE_RANGE[0] <= sample_rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(
            f"a sound of {sample_rate} samples a second was given; wanted {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}"
        )
    if waveform.ndim == 2 and waveform.shape[0] > MAX_CHANNELS:
        shape = tuple(waveform.shape)
        raise ValueError(
            f"a sound is (channels, samples), of up to {MAX_CHANNELS} channels, and {shape} was given; turn it"
        )
    return _validate(waveform, sample_rate)


AudioField = Annotated[InstanceOf[AudioInput], BeforeValidator(parse_audio), PlainSerializer(AudioInput.metadata)]
"""The type of a request's field; in a record it is a name and a digest."""


def _decode(source: Path | bytes, name: str = "") -> AudioInput:
    sample_rate = read_header(source).sample_rate
    clip = read_audio(source, sample_rate)
    return AudioInput(clip.waveform, sample_rate, name, clip.notes)


_load_file = cached_read(lambda path: _decode(path, path.name), "a sound")


def _validate(waveform: Tensor, sample_rate: int | None) -> AudioInput:
    flat = waveform.detach().float().cpu()
    num_nonfinite = int((~torch.isfinite(flat)).sum())
    if num_nonfinite:
        raise ValueError(f"{num_nonfinite} of the sound's {flat.numel()} samples are no numbers (NaN or infinite)")
    mono = flat[None] if flat.ndim == 1 else flat.mean(dim=0, keepdim=True)
    return AudioInput(mono.clone(), sample_rate)


@lru_cache(maxsize=4)
def _resample(audio: AudioInput, sample_rate: int) -> Tensor:
    return resample(audio.waveform, audio.sample_rate or sample_rate, sample_rate)
