"""Small sounds in files, for the tests of data sets: a constant level tells where a crop was cut."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def ramp(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """From 0.1 up to 0.9, so that a value tells a place."""
    wave = np.linspace(0.1, 0.9, round(seconds * rate), dtype=np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, 1)


def put(path: Path, wave: np.ndarray, said: str | None = None, rate: int = RATE) -> Path:
    """A sound file, and its caption beside it."""
    soundfile.write(path, wave, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    if said is not None:
        path.with_suffix(".txt").write_text(said + "\n", encoding="utf-8")
    return path


def encode_audio(wave: np.ndarray, rate: int = RATE) -> bytes:
    """The bytes of a FLAC file."""
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="FLAC")
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar file, its members in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
