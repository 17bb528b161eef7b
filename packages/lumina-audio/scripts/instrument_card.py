"""Writes the data card of the instruments."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = """# Data card: the built-in instruments

Two seconds of every General MIDI program at many pitches, with captions of what is played, for training and
testing text-to-audio models where nothing can be downloaded. Built by
`packages/lumina-audio/scripts/build_instruments.py`; do not edit by hand.

## Source

- FluidR3_GM.sf2, version 3.1, by Frank Wen and others (Debian's package `fluid-soundfont-gm`), sha256
  `{source}`. Licence: MIT; its text is in this folder.
- Changed by us: played with tinysoundfont (no reverb, no chorus) at 48 kHz, mixed to mono, resampled to 16 kHz, cut to
  32768 samples (2.048 s) whose last 50 ms fade out, scaled to the loudness listed below, stored as Ogg Vorbis.
- The choice of notes, chords and phrases, the split and the names are ours, under the licence of this project.

To rebuild it: `apt-get install fluid-soundfont-gm`, `pip install --no-deps tinysoundfont`, then
`python packages/lumina-audio/scripts/build_instruments.py /usr/share/sounds/sf2/FluidR3_GM.sf2`.

## What is inside

- {count} clips of {programs} programs in 16 families: {kinds}.
- One file a program (`040.ogg`, the violin), its clips one after another, 32768 samples each at 16 kHz mono. A line of
  `clips.jsonl.gz` for each clip, in the same order. The reader silences the last 256 samples of each, into which the
  next one leaks (Vorbis works in blocks), with a fade before them.
- Of a line: `program` (0..127), `name`, `family`, `kind` (note, chord, phrase), `pitch` (MIDI number of the note, of a
  chord's root, of a phrase's first note; none for drums and noises), `named` (whether a caption may name the pitch),
  `clear` (whether the pitch heard in it is that one), `velocity` of the keys, `loudness`, `length`, `seconds` until it
  falls 30 dB below its loudest moment for good, `phrase` (which chord or phrase), `split`.
- Loudness is true of the clip itself: its peak is 0.35 (soft), 0.6 (medium) or 0.95 (loud). {loud}.
- Length is measured, not taken from the keys: `short` up to 0.75 s, `long` from 1.3 s, otherwise not named. {lengths}.
- Pitch was checked by YIN on every single note: {clear} of {pitched} are heard within half a semitone of what is
  written, {octave} more an exact number of octaves away (organs with deep stops, bells with strong partials); those
  are named as well, but only clear ones are used where pitch is evaluated. The others ({unnamed}: the orchestra hit,
  timpani, out-of-tune low piano strings and the like) are never called by a note. Three programs that sound in another
  octave than their keys say (percussive organ, rock organ, guitar harmonics) are called by what is heard.
- Chords and phrases: {phrases}.

## Held out of training

{held} clips carry `"split": "held_out"`: of each program with a pitch 2 single notes (never near the ends of its
register) and 1 kind of chord or phrase; of each other 1 clip. All are chosen by a fixed chance from the number of the
program. Training may shift a clip by a semitone; notes lie 3 semitones apart or more, and a shift is not used where it
would reach a held-out note of the same program. Wordings are held out too: some templates of captions are used only for
evaluation (see `lumina_audio.datasets.instruments.captions`).

## What is not inside, and what to know

- {silent}
- Instruments as a SoundFont of 2008 has them; no room, no player, no expression beyond the velocity of the key.
- Above 8 kHz there is nothing; Ogg Vorbis at {kbit:.0f} kbit/s changes the quiet parts more than the loud ones.
- Some programs are nearly alike (slow strings and string ensemble, the two pop pianos); an exam by nearest neighbours
  counts them as different.
- Names are General MIDI's, made friendly; words like `first synth bass` keep apart what it numbers.

## Files

Made with {tools}. sha256 of all samples before they were compressed (16 bit, in order): `{digest}`.

| file | bytes | sha256 |
|---|---|---|
{files}
"""


@dataclass(frozen=True)
class Made:
    """From what and with which programs the pack was made, the checksum of its samples, and what was silent."""

    source: str
    tools: str
    digest: str
    silent: Sequence[str]


def card(records: Sequence[Mapping[str, Any]], folder: Path, made: Made) -> str:
    """The card as Markdown, about the files that already lie in `folder`."""
    notes = [record for record in records if record["kind"] == "note" and record["pitch"] is not None]
    clear = sum(record["clear"] for record in notes)
    named = sum(record["named"] for record in notes)
    bytes_of_sound = sum(path.stat().st_size for path in folder.glob("*.ogg"))
    return TEXT.format(
        source=made.source,
        count=len(records),
        programs=len({record["program"] for record in records}),
        kinds=_counts(records, "kind"),
        loud=_counts(records, "loudness"),
        lengths=_counts([r for r in records if r["length"]], "length"),
        clear=clear,
        pitched=len(notes),
        octave=named - clear,
        unnamed=len(notes) - named,
        phrases=_counts([record for record in records if record["phrase"]], "phrase"),
        held=sum(record["split"] == "held_out" for record in records),
        silent=_silent(made.silent),
        kbit=8 * bytes_of_sound / (2.048 * len(records)) / 1000,
        tools=made.tools,
        digest=made.digest,
        files="\n".join(_file(path) for path in sorted(folder.iterdir()) if path.name != "card.md"),
    )


def _counts(records: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(record[key] for record in records).items())


def _silent(notes: Sequence[str]) -> str:
    if not notes:
        return (
            "No program is silent, and no note of those that were chosen: the registers end where the SoundFont does."
        )
    return f"{len(notes)} notes for which the SoundFont has no sound: {', '.join(notes)}."


def _file(path: Path) -> str:
    return f"| {path.name} | {path.stat().st_size} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
