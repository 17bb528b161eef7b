"""Captions of the built-in instruments: several wordings of the attributes of a clip.

The wordings are in data/instrument_captions.json: `note` for clips of which the content is described, `name` for those
of which only the instrument is named, and `held_out_note`, `held_out_name`, which training never uses, so that
evaluation tells understanding from memorization. A wording listed twice is twice as frequent. Placeholders: {n} name,
{a} name with article, {plays} verb, {family}, {thing} content, {a_thing} content with article, {loud} loudness,
{a_loud} with article.
"""

from __future__ import annotations

import functools
import json
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lumina_audio.datasets.instruments.general_midi import Instrument, InstrumentName, indefinite_article

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
LOW_REGISTER_END, HIGH_REGISTER_START = 48, 72
"""MIDI notes C3 and C5: low notes are below the first, high notes begin with the second."""


@dataclass(frozen=True)
class ClipFacts:
    """Properties of a clip that a caption may mention.

    Attributes:
        instrument: the program.
        kind: note, chord or phrase.
        pitch: MIDI number of the note, of the root, or of the first note; None: not mentioned.
        loudness: soft, medium or loud.
        length: short, long, or None for neither.
        phrase: major or minor for a chord, the name of a phrase, None for a note.
    """

    instrument: Instrument
    kind: str
    pitch: int | None
    loudness: str
    length: str | None
    phrase: str | None


@dataclass(frozen=True)
class CaptionStyle:
    """Selection of wordings.

    Attributes:
        held_out: use the held-out wordings.
        describe_prob: share of captions that describe the content.
        note_name_prob: share of pitches that are mentioned by note name.
        default_name_prob: share of the default name of an instrument with several names.
    """

    held_out: bool = False
    describe_prob: float = 0.85
    note_name_prob: float = 0.7
    default_name_prob: float = 0.6


def make_caption(facts: ClipFacts, rng: random.Random, style: CaptionStyle | None = None) -> str:
    """Make a random caption of a clip; it always names the instrument."""
    style = style or CaptionStyle()
    names = facts.instrument.names
    name = names[0] if len(names) == 1 or rng.random() < style.default_name_prob else rng.choice(names[1:])
    describes = facts.instrument.register is not None and rng.random() < style.describe_prob
    loudness = rng.choice(_wordings()["loudness"][facts.loudness] or ("",))
    slots = {**_name_slots(name, facts.instrument.family), "loud": loudness, "a_loud": loudness and f"a {loudness}"}
    if describes:
        slots["thing"], slots["a_thing"] = _describe(facts, rng, style)
    templates: list[str] = _wordings()[f"{'held_out_' if style.held_out else ''}{'note' if describes else 'name'}"]
    return rng.choice([template for template in templates if _slots_available(template, slots)]).format(**slots)


def note_name(pitch: int, rng: random.Random) -> str:
    """Name a MIDI note at random: 60 is C4; 61 is C#4, Db4, C sharp 4 or D flat 4."""
    letter, octave = rng.choice((SHARPS, SHARPS, FLATS))[pitch % 12], pitch // 12 - 1
    if len(letter) > 1 and rng.random() < 0.5:
        return f"{letter[0]} {'sharp' if letter[1] == '#' else 'flat'} {octave}"
    return f"{letter}{octave}"


def register_of(pitch: int) -> str:
    """Classify a MIDI note as low, middle or high."""
    return "low" if pitch < LOW_REGISTER_END else "high" if pitch >= HIGH_REGISTER_START else "middle"


@functools.lru_cache(maxsize=1)
def _wordings() -> Any:
    return json.loads((files("lumina_audio") / "data/instrument_captions.json").read_text(encoding="utf-8"))


def _name_slots(name: InstrumentName, family: str) -> dict[str, str]:
    return {"n": name.text, "a": name.with_article, "plays": "play" if name.plural else "plays", "family": family}


def _slots_available(template: str, slots: dict[str, str]) -> bool:
    # an empty slot is an unknown attribute; a name without an indefinite article takes no second one
    names = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    if "a_loud" in names and not slots["a"].startswith("a"):
        return False
    return all(slots.get(name) for name in names)


def _describe(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> tuple[str, str]:
    """Describe the content of a clip, without and with its article."""
    words = [] if facts.length is None or rng.random() > 0.35 else [facts.length]
    loudness_words = _wordings()["loudness"][facts.loudness]
    if loudness_words and rng.random() < 0.4:
        words.append(rng.choice(loudness_words))
    if facts.kind == "note":
        return _describe_note(facts.pitch, words, rng, style)
    noun = _describe_chord(facts, rng, style) if facts.kind == "chord" else _describe_phrase(facts, rng, style)
    return _with_article([*words, noun])


def _describe_note(pitch: int | None, words: Sequence[str], rng: random.Random, style: CaptionStyle) -> tuple[str, str]:
    if pitch is None or rng.random() >= style.note_name_prob:
        register = [register_of(pitch)] if pitch is not None and rng.random() < 0.8 else []
        return _with_article([*words, *register, "note"])
    name = note_name(pitch, rng)
    if words:
        return _with_article([*words, name])
    if rng.random() < 0.3:
        return f"note {name}", f"the note {name}"
    return name, rng.choice((name, name, _with_article([name])[1]))


def _describe_chord(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> str:
    if facts.pitch is None or rng.random() >= style.note_name_prob:
        return f"{facts.phrase} chord"
    name = note_name(facts.pitch, rng)
    if rng.random() < 0.6:
        name = name.rstrip(string.digits + "-").rstrip()
    return f"{name} {facts.phrase} chord"


def _describe_phrase(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> str:
    text: str = rng.choice(_wordings()["phrases"][str(facts.phrase)])
    if facts.pitch is None or rng.random() >= 0.5 * style.note_name_prob:
        return text
    return f"{text} {rng.choice(('from', 'starting on'))} {note_name(facts.pitch, rng)}"


def _with_article(words: Sequence[str]) -> tuple[str, str]:
    """Join words, without and with an indefinite article; a note name is pronounced as its letter."""
    text = " ".join(words)
    if re.match(r"[A-G](#|b|\d|-| )", text):
        return text, ("an " if text[0] in "AEF" else "a ") + text
    return text, indefinite_article(text) + text
