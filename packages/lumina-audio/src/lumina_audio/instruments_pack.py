"""The built-in pack of instruments, sounds and records, as it lies in the package; data/instruments/card.md tells."""

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
    from importlib.resources.abc import Traversable  # at run time only from Python 3.11 on

RATE, SAMPLES = 16000, 32768
"""Of every clip: 2.048 s."""

FADE, LEAK = 544, 256
"""Samples at the end of each that fade out, and that are silenced behind them."""

Record = dict[str, Any]


@functools.lru_cache(maxsize=1)
def records() -> tuple[Record, ...]:
    """One record a clip, program by program.

    Keys: `program`, `name`, `family`, `kind` (note, chord, phrase), `pitch` (MIDI, None for drums and noises), `named`
    (a caption may name the pitch), `clear` (it is also heard there), `velocity`, `loudness` (soft, medium, loud),
    `length` (short, long, None), `seconds`, `phrase` (which chord or phrase), `split` (train, held_out).
    """
    text = gzip.decompress((_folder() / "clips.jsonl.gz").read_bytes()).decode("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def sound(index: int) -> NDArray[np.int16]:
    """(32768,) of one record, at 16 kHz; not to be written to."""
    program, place = _places()[index]
    clip: NDArray[np.int16] = _program(program)[place]
    return clip


@functools.lru_cache(maxsize=1)
def _places() -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for record in records():
        program = record["program"]
        found.append((program, found[-1][1] + 1 if found and found[-1][0] == program else 0))
    return tuple(found)


@functools.cache
def _program(program: int) -> NDArray[np.int16]:
    # decoded once, about 1.2 MB a program: all of them together are 160 MB
    wave, _ = soundfile.read(io.BytesIO((_folder() / f"{program:03d}.ogg").read_bytes()), dtype="int16")
    clips: NDArray[np.int16] = np.ascontiguousarray(wave).reshape(-1, SAMPLES)
    # the beginning of the next clip leaks into the end of this one, as Vorbis works in blocks
    fade = np.concatenate([np.linspace(1, 0, FADE), np.zeros(LEAK)])
    clips[:, -len(fade) :] = np.rint(clips[:, -len(fade) :] * fade)
    clips.setflags(write=False)
    return clips


def _folder() -> Traversable:
    return files("lumina_audio") / "data" / "instruments"
