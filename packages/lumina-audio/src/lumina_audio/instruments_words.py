"""What one says of a note, a chord or a phrase on an instrument: many wordings, each of them true."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from lumina_audio.general_midi import Instrument, Name, article

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
LOW_BELOW, HIGH_FROM = 48, 72
"""C3 and C5: a low note lies below the one, a high note from the other on."""
LOUDNESS = {"soft": ("soft", "quiet"), "loud": ("loud",), "medium": ()}
PHRASES = {
    "rising scale": ("rising scale", "ascending scale"),
    "falling scale": ("falling scale", "descending scale"),
    "arpeggio": ("arpeggio", "rising arpeggio"),
    "repeated note": ("repeated note",),
    "octave leap": ("octave leap", "leap of an octave"),
}
PLAYED = (
    "{a} {plays} {a_thing}", "{a} {plays} {a_thing}", "{a_thing} on {a}", "{a_thing} on {a}", "{n}, {thing}",
    "{n}, {thing}", "{n} playing {a_thing}", "{a_thing} played on {a}", "{family}: {n}, {thing}", "{n}: {thing}",
    "the sound of {a} playing {a_thing}", "{n} {thing}", "{a}: {a_thing}", "{thing} for {n}", "let {a} play {a_thing}",
    "one hears {a} playing {a_thing}", "{a_thing}, {family}, {n}", "{n} ({family}): {thing}",
    "{a_thing} in the sound of {a}", "this is {a_thing}, the instrument is {a}", "{thing} ({n})",
)  # fmt: skip
"""Wordings for training, of something that is played. One that stands here twice comes twice as often."""
ALONE = (
    "{n}",
    "{a}",
    "{family}: {n}",
    "the sound of {a}",
    "{loud} {n}",
    "{a_loud} {n}",
    "{n}, {loud}",
    "{n}, {family}",
    "{n} sound",
    "this is {a}",
    "one hears {a}",
    "let {a} sound",
)
"""Wordings for training that name the instrument alone."""
PLAYED_HELD_OUT = (
    "{thing}, {n}", "on {a}, {a_thing}", "{a_thing} from {a}", "{n} sounding {a_thing}", "play {a_thing} on {a}",
    "{family}, {n}, {thing}", "{n} with {a_thing}", "{a_thing} by {a}",
)  # fmt: skip
"""Wordings that no training uses: with them one asks whether a model understands, or only remembers."""
ALONE_HELD_OUT = ("a recording of {a}", "{family}, {n}", "play {a}", "hear {a}", "{loud} sound of {a}")


@dataclass(frozen=True)
class Heard:
    """What may be said of a sound.

    Attributes:
        kind: note, chord or phrase.
        pitch: MIDI number of the note, the root or the first note; None: not to be named.
        loudness: soft, medium or loud.
        length: short, long, or None: neither.
        phrase: major or minor for a chord; a key of `PHRASES`; None for a note.
    """

    instrument: Instrument
    kind: str
    pitch: int | None
    loudness: str
    length: str | None
    phrase: str | None


@dataclass(frozen=True)
class Manner:
    """Which wordings, and how often what is named."""

    held_out: bool = False
    played: float = 0.85
    """Share that tells what is played."""
    note: float = 0.7
    """Share of pitches that are called by their name."""
    usual: float = 0.6
    """Share of the usual name where an instrument has others."""


def caption(heard: Heard, draw: random.Random, manner: Manner | None = None) -> str:
    """One sentence or phrase about a sound; it always names the instrument."""
    manner = manner or Manner()
    names = heard.instrument.names
    name = names[0] if len(names) == 1 or draw.random() < manner.usual else draw.choice(names[1:])
    plays = heard.instrument.register is not None and draw.random() < manner.played
    loud = draw.choice(LOUDNESS[heard.loudness] or ("",))
    slots = {**_names(name, heard.instrument.family), "loud": loud, "a_loud": loud and f"a {loud}"}
    if plays:
        slots["thing"], slots["a_thing"] = _thing(heard, draw, manner)
    wordings = {
        (False, False): ALONE, (True, False): PLAYED, (False, True): ALONE_HELD_OUT, (True, True): PLAYED_HELD_OUT
    }[plays, manner.held_out]  # fmt: skip
    return draw.choice([wording for wording in wordings if _fits(wording, slots)]).format(**slots)


def note_name(pitch: int, draw: random.Random) -> str:
    """60 -> C4; 61 -> C#4, Db4, C sharp 4 or D flat 4."""
    letter, octave = draw.choice((SHARPS, SHARPS, FLATS))[pitch % 12], pitch // 12 - 1
    if len(letter) > 1 and draw.random() < 0.5:
        return f"{letter[0]} {'sharp' if letter[1] == '#' else 'flat'} {octave}"
    return f"{letter}{octave}"


def register_of(pitch: int) -> str:
    """low, middle or high."""
    return "low" if pitch < LOW_BELOW else "high" if pitch >= HIGH_FROM else "middle"


def _names(name: Name, family: str) -> dict[str, str]:
    return {"n": name.text, "a": name.full, "plays": "play" if name.several else "plays", "family": family}


def _fits(wording: str, slots: dict[str, str]) -> bool:
    # an empty slot means that there is nothing true to put in; a name without an article takes no second one
    names = [field for _, field, _, _ in string.Formatter().parse(wording) if field]
    if "a_loud" in names and not slots["a"].startswith("a"):
        return False
    return all(slots.get(name) for name in names)


def _thing(heard: Heard, draw: random.Random, manner: Manner) -> tuple[str, str]:
    """What is played, without and with its article."""
    words = [] if heard.length is None or draw.random() > 0.35 else [heard.length]
    if LOUDNESS[heard.loudness] and draw.random() < 0.4:
        words.append(draw.choice(LOUDNESS[heard.loudness]))
    if heard.kind == "note":
        return _note(heard.pitch, words, draw, manner)
    thing = _chord(heard, draw, manner) if heard.kind == "chord" else _phrase(heard, draw, manner)
    full = " ".join([*words, thing])
    return full, _article(full) + full


def _note(pitch: int | None, words: Sequence[str], draw: random.Random, manner: Manner) -> tuple[str, str]:
    if pitch is None or draw.random() >= manner.note:
        register = [register_of(pitch)] if pitch is not None and draw.random() < 0.8 else []
        full = " ".join([*words, *register, "note"])
        return full, _article(full) + full
    name = note_name(pitch, draw)
    if words:
        full = " ".join([*words, name])
        return full, _article(full) + full
    if draw.random() < 0.3:
        return f"note {name}", f"the note {name}"
    return name, draw.choice((name, name, _article(name) + name))


def _chord(heard: Heard, draw: random.Random, manner: Manner) -> str:
    if heard.pitch is None or draw.random() >= manner.note:
        return f"{heard.phrase} chord"
    name = note_name(heard.pitch, draw)
    if draw.random() < 0.6:
        name = name.rstrip(string.digits + "-").rstrip()
    return f"{name} {heard.phrase} chord"


def _phrase(heard: Heard, draw: random.Random, manner: Manner) -> str:
    said = draw.choice(PHRASES[str(heard.phrase)])
    if heard.pitch is None or draw.random() >= 0.5 * manner.note:
        return said
    return f"{said} {draw.choice(('from', 'starting on'))} {note_name(heard.pitch, draw)}"


def _article(words: str) -> str:
    if re.match(r"[A-G](#|b|\d|-| )", words):
        return "an " if words[0] in "AEF" else "a "  # as the letters are spoken
    return article(words)
