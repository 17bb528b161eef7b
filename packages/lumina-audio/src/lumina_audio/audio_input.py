"""Audio in a request: a path, the content of a file, an array or a tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, PlainSerializer

from lumina_audio.audio_io import MAX_CHANNELS, SAMPLE_RATE_RANGE, AudioError, read_audio, read_header, resample
from lumina_core.errors import printable
from lumina_core.io import cached_read, user_path
from lumina_core.types import is_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class AudioInput:
    """Decoded audio of a request.

    Attributes:
        waveform: (1, S) float32 in [-1, 1].
        sample_rate: samples per second; None: that of the model.
        name: name of the file; empty for other inputs.
        notes: warnings in words, such as `silent` or `clipped (...)`.
    """

    waveform: Tensor
    sample_rate: int | None = None
    name: str = ""
    notes: tuple[str, ...] = ()

    def resampled_to(self, sample_rate: int) -> Tensor:
        """Return the waveform (1, S) at a sample rate."""
        return self.waveform if self.sample_rate in (None, sample_rate) else _resample(self, sample_rate)

    def metadata(self) -> dict[str, str]:
        """Return the name of the file and a digest of sample rate and samples."""
        content = f"{self.sample_rate}".encode() + self.waveform.contiguous().numpy().tobytes()
        return {**({"name": self.name} if self.name else {}), "sha256": hashlib.sha256(content).hexdigest()}


def parse_audio(value: Any) -> AudioInput:
    """Convert a path, the content of a file, an array or a tensor to mono audio.

    Args:
        value: arrays and tensors hold floats in [-1, 1], (samples,) or (channels, samples), at the sample rate of the
            model; a pair (tensor, sample_rate) sets another rate. Channels are averaged.

    Raises:
        ValueError: the value has another type or shape, cannot be decoded, is too large, or is not finite.
    """
    if isinstance(value, AudioInput):
        return value
    if isinstance(value, str | Path):
        return _load_file(user_path(value))
    if isinstance(value, bytes):
        try:
            return _decode(value)
        except AudioError as error:
            raise ValueError(f"audio bytes cannot be decoded: {error}") from error
    has_rate = isinstance(value, Sequence) and len(value) == 2 and isinstance(value[1], int)
    waveform, sample_rate = value if has_rate else (value, None)
    if isinstance(waveform, np.ndarray):
        import torch

        waveform = torch.from_numpy(np.ascontiguousarray(waveform))
    if not is_tensor(waveform) or not waveform.is_floating_point() or waveform.ndim not in (1, 2):
        raise ValueError(
            f"audio: got {type(value).__name__}, expected a path, bytes, or floats in [-1, 1] of shape (samples,) or "
            "(channels, samples), alone or as a pair with the sample rate"
        )
    if not waveform.numel():
        raise ValueError("audio: got no samples, expected at least one")
    if sample_rate is not None and not SAMPLE_RATE_RANGE[0] <= sample_rate <= SAMPLE_RATE_RANGE[1]:
        raise ValueError(
            f"sample rate of audio: got {sample_rate}, expected {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}"
        )
    if waveform.ndim == 2 and waveform.shape[0] > MAX_CHANNELS:
        raise ValueError(
            f"audio: got shape {tuple(waveform.shape)}, expected (channels, samples) with at most {MAX_CHANNELS} "
            "channels. Transpose it"
        )
    return _to_mono(waveform, sample_rate)


# Any: pydantic 2.6 would look up the types of AudioInput's fields, and so need torch
AudioField = Annotated[Any, BeforeValidator(parse_audio), PlainSerializer(AudioInput.metadata)]
"""Type of a request field that holds audio; it is serialized as the name of the file and a digest."""


def _decode(source: Path | bytes, name: str = "") -> AudioInput:
    sample_rate = read_header(source).sample_rate
    clip = read_audio(source, sample_rate)
    return AudioInput(clip.waveform, sample_rate, name, clip.notes)


_load_file = cached_read(lambda path: _decode(path, printable(path.name)), "audio")


def _to_mono(waveform: Tensor, sample_rate: int | None) -> AudioInput:
    samples = waveform.detach().float().cpu()
    num_nonfinite = int((~samples.isfinite()).sum())
    if num_nonfinite:
        raise ValueError(f"audio: {num_nonfinite} of {samples.numel()} samples are NaN or infinite")
    mono = samples[None] if samples.ndim == 1 else samples.mean(dim=0, keepdim=True)
    return AudioInput(mono.clone(), sample_rate)


@lru_cache(maxsize=4)
def _resample(audio: AudioInput, sample_rate: int) -> Tensor:
    return resample(audio.waveform, audio.sample_rate or sample_rate, sample_rate)
