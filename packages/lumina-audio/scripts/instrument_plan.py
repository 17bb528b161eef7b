"""Which clips of each program are rendered, and which of them are held out of training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lumina_audio.datasets.instruments.general_midi import Instrument

VELOCITIES = {"soft": 45, "medium": 85, "loud": 122}
PEAKS = {"soft": 0.35, "medium": 0.6, "loud": 0.95}
HELD = {"short": 0.3, "long": 1.65}
"""Seconds that a key is held."""
SPACING = 3
"""Semitones between notes of a program: a shift of one up or down then fills the gaps."""
MOST_NOTES = 15
NOTES_HELD_OUT = 2
UNPITCHED = 10
"""Clips of a program in which no pitch is heard."""
BEAT = 0.33
HEARD_AT = {17: -12, 18: -12, 31: 24}
"""Programs that sound in another octave than their keys say."""

# steps of a phrase: (semitones above the first note, beats)
PHRASES: dict[str, Sequence[tuple[int, float]]] = {
    "rising scale": [(step, 1) for step in (0, 2, 4, 5, 7)],
    "falling scale": [(step, 1) for step in (0, -2, -3, -5, -7)],
    "arpeggio": [(step, 1.25) for step in (0, 4, 7, 12)],
    "repeated note": [(0, 1.25)] * 4,
    "octave leap": [(0, 2.4), (12, 2.4)],
}
CHORDS = {"major": (0, 4, 7), "minor": (0, 3, 7)}


@dataclass(frozen=True)
class Clip:
    """What is played: keys as (MIDI note, start, seconds held). `pitch` is what should be heard (of the first note)."""

    kind: str
    pitch: int | None
    loudness: str
    length: str | None
    phrase: str | None
    split: str
    keys: tuple[tuple[int, float, float], ...]


def plan(instrument: Instrument) -> list[Clip]:
    """All clips of a program, in a fixed order; chances come from its number alone."""
    chance = random.Random(hashlib.sha256(f"clips of program {instrument.program}".encode()).digest())
    if instrument.register is None:
        return list(_unpitched(chance))
    octave = HEARD_AT.get(instrument.program, 0)
    return [_moved(clip, octave) for clip in _pitched(chance, *instrument.register)]


def _moved(clip: Clip, octave: int) -> Clip:
    return replace(clip, keys=tuple((key - octave, start, held) for key, start, held in clip.keys))


def _pitched(chance: random.Random, low: int, high: int) -> list[Clip]:
    pitches = _spread(low, high)
    loudness = _cycle(chance, list(VELOCITIES), len(pitches))
    lengths = _cycle(chance, ["long", "short", "long"], len(pitches))
    # not near the ends: what lies beyond the trained register cannot be known
    held_out = set(chance.sample(pitches[2:-2], NOTES_HELD_OUT))
    notes = [
        Clip("note", pitch, loud, length, None, "held_out" if pitch in held_out else "train", _key(pitch, length))
        for pitch, loud, length in zip(pitches, loudness, lengths, strict=True)
    ]
    return [*notes, *_several(chance, low, high)]


def _spread(low: int, high: int) -> list[int]:
    count = min(MOST_NOTES, (high - low) // SPACING + 1)
    spacing = max(SPACING, round((high - low) / (count - 1)))
    return [low + spacing * n for n in range(count) if low + spacing * n <= high]


def _cycle(chance: random.Random, values: list[str], count: int) -> list[str]:
    found = [values[n % len(values)] for n in range(count)]
    chance.shuffle(found)
    return found


def _key(pitch: int, length: str) -> tuple[tuple[int, float, float], ...]:
    return ((pitch, 0.0, HELD[length]),)


def _several(chance: random.Random, low: int, high: int) -> Iterator[Clip]:
    left_out = chance.choice([*CHORDS, *PHRASES])
    for name, tones in CHORDS.items():
        root, loud = chance.randint(low, max(low, high - 12)), chance.choice(list(VELOCITIES))
        keys = tuple((root + tone, 0.0, HELD["long"]) for tone in tones)
        yield Clip("chord", root, loud, "long", name, "held_out" if name == left_out else "train", keys)
    for name, steps in PHRASES.items():
        falls = min(step for step, _ in steps)
        first = chance.randint(low - falls, max(low - falls, high - 12))
        loud = chance.choice(list(VELOCITIES))
        yield Clip(
            "phrase", first, loud, None, name, "held_out" if name == left_out else "train", _melody(first, steps)
        )


def _melody(first: int, steps: Sequence[tuple[int, float]]) -> tuple[tuple[int, float, float], ...]:
    keys, start = [], 0.0
    for step, beats in steps:
        keys.append((first + step, round(start, 4), round(0.9 * beats * BEAT, 4)))
        start += beats * BEAT
    return tuple(keys)


def _unpitched(chance: random.Random) -> Iterator[Clip]:
    loudness = _cycle(chance, list(VELOCITIES), UNPITCHED)
    keys = [48 + 3 * n for n in range(UNPITCHED)]
    held_out = chance.choice(keys[1:-1])
    for key, loud in zip(keys, loudness, strict=True):
        yield Clip("note", None, loud, "long", None, "held_out" if key == held_out else "train", _key(key, "long"))
