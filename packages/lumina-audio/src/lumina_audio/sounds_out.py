"""Sounds into files: WAV, FLAC or OGG by the suffix, the request in the file's comment, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch import Tensor

from lumina_audio.wav_notes import add_notes, comment_of
from lumina_core.errors import LuminaError
from lumina_core.files import whole_file

FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
"""Of each suffix the container and how samples are kept; the first where there is no suffix."""
BLOCK = 65536
"""Samples that are handed to the encoder at once; Vorbis takes its room from the stack."""
TITLE = 120
"""Characters of a prompt that become the title."""


def write_sound(path: Path, waveform: Tensor, rate: int, record: Mapping[str, Any]) -> None:
    """(channels, samples) in [-1, 1] as a file of 16 bits a sample (OGG: Vorbis), `record` as JSON in its comment.

    Sixteen bits are the ones that `read_sound` gives back: what was read from such a file and is written again has the
    same samples, bit for bit. What lies outside of [-1, 1] is clipped; see `level` for a way without.

    Args:
        rate: samples a second.
        record: anything that JSON can say; its `prompt` is the title too.
    """
    samples = (waveform.detach().float().cpu().numpy().T.astype(np.float64) * 32768).round()
    samples = samples.clip(-32768, 32767).astype(np.int16)
    container, kept_as = FORMATS.get(path.suffix.lower(), FORMATS[".wav"])
    title, comment = str(record.get("prompt", ""))[:TITLE], json.dumps({"lumina": record}, ensure_ascii=False)
    with whole_file(path) as partial:
        # a stream, so that a full disk is an OSError, and no name is too strange for the library
        with (
            partial.open("wb") as stream,
            soundfile.SoundFile(stream, "w", rate, samples.shape[1], kept_as, format=container) as out,
        ):
            if container != "WAV":
                out.title, out.comment = title or "untitled", comment  # an empty one is refused
            for start in range(0, len(samples), BLOCK):
                out.write(samples[start : start + BLOCK])
        if container == "WAV":
            add_notes(partial, title, comment)


def record_of(path: str | Path) -> dict[str, Any]:
    """The record that `write_sound` put into a file: what was asked, and how the sound came to be.

    Raises:
        LuminaError: it is no sound file, or holds no record of ours.
    """
    try:
        with soundfile.SoundFile(str(path)) as sound:
            comment = comment_of(Path(path)) if sound.format == "WAV" else sound.comment
    except (soundfile.LibsndfileError, OSError) as error:
        raise LuminaError(f"{path} cannot be read as a sound: {error}") from error
    try:
        record: dict[str, Any] = json.loads(comment)["lumina"]
    except (ValueError, KeyError, TypeError) as error:
        raise LuminaError(f"{path} holds no record of Lumina in its comment; it was made by something else") from error
    return record


def level(waveform: Tensor) -> tuple[Tensor, float | None]:
    """A sound that a file can hold, and the factor by which it was made softer; None: it was soft enough."""
    peak = float(waveform.abs().max()) if waveform.numel() else 0.0
    return (waveform, None) if peak <= 1 else (waveform / peak, 1 / peak)
