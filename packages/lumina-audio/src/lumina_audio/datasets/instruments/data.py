"""Clips and records of the built-in instruments; data/instruments/card.md documents them."""

from __future__ import annotations

import functools
import gzip
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # at run time since Python 3.11

SAMPLE_RATE, CLIP_SAMPLES = 16000, 32768
FADE_SAMPLES, SILENCED_SAMPLES = 544, 256
"""Samples at the end of a clip that are faded out, and samples after them that are set to 0."""

Record = dict[str, Any]


@functools.lru_cache(maxsize=1)
def records() -> tuple[Record, ...]:
    """Read the record of each clip, in the order of programs.

    Keys: `program`, `name`, `family`, `kind` (note, chord, phrase), `pitch` (MIDI note; None for drums and noises),
    `named` (a caption may mention the pitch), `clear` (the pitch is also recognizable), `velocity`, `loudness` (soft,
    medium, loud), `length` (short, long, None), `seconds`, `phrase` (name of the chord or phrase), `split` (train,
    held_out).
    """
    text = gzip.decompress((_data_dir() / "clips.jsonl.gz").read_bytes()).decode("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def clip(index: int) -> NDArray[np.int16]:
    """Return the samples (32768,) of a record at 16 kHz, as a read-only array."""
    program, offset = _clip_locations()[index]
    samples: NDArray[np.int16] = _program_clips(program)[offset]
    return samples


@functools.lru_cache(maxsize=1)
def _clip_locations() -> tuple[tuple[int, int], ...]:
    locations: list[tuple[int, int]] = []
    for record in records():
        program = record["program"]
        locations.append((program, locations[-1][1] + 1 if locations and locations[-1][0] == program else 0))
    return tuple(locations)


@functools.cache
def _program_clips(program: int) -> NDArray[np.int16]:
    # cached: about 1.2 MB per program, 160 MB for all
    wave, _ = soundfile.read(io.BytesIO((_data_dir() / f"{program:03d}.ogg").read_bytes()), dtype="int16")
    clips: NDArray[np.int16] = np.ascontiguousarray(wave).reshape(-1, CLIP_SAMPLES)
    # Vorbis works in blocks: the start of the next clip leaks into the end of each
    fade = np.concatenate([np.linspace(1, 0, FADE_SAMPLES), np.zeros(SILENCED_SAMPLES)])
    clips[:, -len(fade) :] = np.rint(clips[:, -len(fade) :] * fade)
    clips.setflags(write=False)
    return clips


def _data_dir() -> Traversable:
    return files("lumina_audio") / "data" / "instruments"
