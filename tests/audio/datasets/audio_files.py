"""Small audio files for tests of data sets."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def ramp(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Make a ramp from 0.1 to 0.9, so that a sample value identifies its position."""
    wave = np.linspace(0.1, 0.9, round(seconds * rate), dtype=np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, 1)


def put(path: Path, wave: np.ndarray, caption: str | None = None, rate: int = RATE) -> Path:
    """Write an audio file, and its caption as a .txt file."""
    soundfile.write(path, wave, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return path


def encode_audio(wave: np.ndarray, rate: int = RATE) -> bytes:
    """Encode a FLAC file."""
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="FLAC")
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar file with its members in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
