"""What one says of a note, a chord or a phrase on an instrument: many wordings, each of them true."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from lumina_audio.datasets.instruments.general_midi import Instrument, InstrumentName, indefinite_article

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
LOW_REGISTER_END, HIGH_REGISTER_START = 48, 72
"""C3 and C5: a low note lies below the one, a high note from the other on."""
LOUDNESS_WORDS = {"soft": ("soft", "quiet"), "loud": ("loud",), "medium": ()}
PHRASE_NAMES = {
    "rising scale": ("rising scale", "ascending scale"),
    "falling scale": ("falling scale", "descending scale"),
    "arpeggio": ("arpeggio", "rising arpeggio"),
    "repeated note": ("repeated note",),
    "octave leap": ("octave leap", "leap of an octave"),
}
NOTE_TEMPLATES = (
    "{a} {plays} {a_thing}", "{a} {plays} {a_thing}", "{a_thing} on {a}", "{a_thing} on {a}", "{n}, {thing}",
    "{n}, {thing}", "{n} playing {a_thing}", "{a_thing} played on {a}", "{family}: {n}, {thing}", "{n}: {thing}",
    "the sound of {a} playing {a_thing}", "{n} {thing}", "{a}: {a_thing}", "{thing} for {n}", "let {a} play {a_thing}",
    "one hears {a} playing {a_thing}", "{a_thing}, {family}, {n}", "{n} ({family}): {thing}",
    "{a_thing} in the sound of {a}", "this is {a_thing}, the instrument is {a}", "{thing} ({n})",
)  # fmt: skip
"""Wordings for training, of something that is played. One that stands here twice comes twice as often."""
NAME_TEMPLATES = (
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
HELD_OUT_NOTE_TEMPLATES = (
    "{thing}, {n}", "on {a}, {a_thing}", "{a_thing} from {a}", "{n} sounding {a_thing}", "play {a_thing} on {a}",
    "{family}, {n}, {thing}", "{n} with {a_thing}", "{a_thing} by {a}",
)  # fmt: skip
"""Wordings that no training uses: with them one asks whether a model understands, or only remembers."""
HELD_OUT_NAME_TEMPLATES = ("a recording of {a}", "{family}, {n}", "play {a}", "hear {a}", "{loud} sound of {a}")


@dataclass(frozen=True)
class ClipFacts:
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
class CaptionStyle:
    """Which wordings, and how often what is named."""

    held_out: bool = False
    describe_prob: float = 0.85
    """Share that tells what is played."""
    note_name_prob: float = 0.7
    """Share of pitches that are called by their name."""
    default_name_prob: float = 0.6
    """Share of the usual name where an instrument has others."""


def make_caption(facts: ClipFacts, rng: random.Random, style: CaptionStyle | None = None) -> str:
    """One sentence or phrase about a sound; it always names the instrument."""
    style = style or CaptionStyle()
    names = facts.instrument.names
    name = names[0] if len(names) == 1 or rng.random() < style.default_name_prob else rng.choice(names[1:])
    describes = facts.instrument.register is not None and rng.random() < style.describe_prob
    loudness = rng.choice(LOUDNESS_WORDS[facts.loudness] or ("",))
    slots = {**_name_slots(name, facts.instrument.family), "loud": loudness, "a_loud": loudness and f"a {loudness}"}
    if describes:
        slots["thing"], slots["a_thing"] = _describe(facts, rng, style)
    templates = {
        (False, False): NAME_TEMPLATES, (True, False): NOTE_TEMPLATES, (False, True): HELD_OUT_NAME_TEMPLATES, (True, True): HELD_OUT_NOTE_TEMPLATES
    }[describes, style.held_out]  # fmt: skip
    return rng.choice([template for template in templates if _slots_available(template, slots)]).format(**slots)


def note_name(pitch: int, rng: random.Random) -> str:
    """60 -> C4; 61 -> C#4, Db4, C sharp 4 or D flat 4."""
    letter, octave = rng.choice((SHARPS, SHARPS, FLATS))[pitch % 12], pitch // 12 - 1
    if len(letter) > 1 and rng.random() < 0.5:
        return f"{letter[0]} {'sharp' if letter[1] == '#' else 'flat'} {octave}"
    return f"{letter}{octave}"


def register_of(pitch: int) -> str:
    """low, middle or high."""
    return "low" if pitch < LOW_REGISTER_END else "high" if pitch >= HIGH_REGISTER_START else "middle"


def _name_slots(name: InstrumentName, family: str) -> dict[str, str]:
    return {"n": name.text, "a": name.with_article, "plays": "play" if name.plural else "plays", "family": family}


def _slots_available(template: str, slots: dict[str, str]) -> bool:
    # an empty slot means that there is nothing true to put in; a name without an article takes no second one
    names = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    if "a_loud" in names and not slots["a"].startswith("a"):
        return False
    return all(slots.get(name) for name in names)


def _describe(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> tuple[str, str]:
    """What is played, without and with its article."""
    words = [] if facts.length is None or rng.random() > 0.35 else [facts.length]
    if LOUDNESS_WORDS[facts.loudness] and rng.random() < 0.4:
        words.append(rng.choice(LOUDNESS_WORDS[facts.loudness]))
    if facts.kind == "note":
        return _describe_note(facts.pitch, words, rng, style)
    noun = _describe_chord(facts, rng, style) if facts.kind == "chord" else _describe_phrase(facts, rng, style)
    full = " ".join([*words, noun])
    return full, _article_for(full) + full


def _describe_note(pitch: int | None, words: Sequence[str], rng: random.Random, style: CaptionStyle) -> tuple[str, str]:
    if pitch is None or rng.random() >= style.note_name_prob:
        register = [register_of(pitch)] if pitch is not None and rng.random() < 0.8 else []
        full = " ".join([*words, *register, "note"])
        return full, _article_for(full) + full
    name = note_name(pitch, rng)
    if words:
        full = " ".join([*words, name])
        return full, _article_for(full) + full
    if rng.random() < 0.3:
        return f"note {name}", f"the note {name}"
    return name, rng.choice((name, name, _article_for(name) + name))


def _describe_chord(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> str:
    if facts.pitch is None or rng.random() >= style.note_name_prob:
        return f"{facts.phrase} chord"
    name = note_name(facts.pitch, rng)
    if rng.random() < 0.6:
        name = name.rstrip(string.digits + "-").rstrip()
    return f"{name} {facts.phrase} chord"


def _describe_phrase(facts: ClipFacts, rng: random.Random, style: CaptionStyle) -> str:
    text = rng.choice(PHRASE_NAMES[str(facts.phrase)])
    if facts.pitch is None or rng.random() >= 0.5 * style.note_name_prob:
        return text
    return f"{text} {rng.choice(('from', 'starting on'))} {note_name(facts.pitch, rng)}"


def _article_for(words: str) -> str:
    if re.match(r"[A-G](#|b|\d|-| )", words):
        return "an " if words[0] in "AEF" else "a "  # as the letters are spoken
    return indefinite_article(words)
