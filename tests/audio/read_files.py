"""Samples, sample rate and metadata of audio files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from lumina_audio.audio_io import read_metadata


def samples(path: Path | str) -> np.ndarray:
    """Read 16-bit samples (S,)."""
    return soundfile.read(str(path), dtype="int16")[0]


def rate(path: Path | str) -> int:
    return int(soundfile.info(str(path)).samplerate)


def record(path: Path | str) -> dict:
    return read_metadata(path)
