"""Names of notes in prompts: all usual spellings to the one that captions of the built-in instruments use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MIDDLE_C, CONCERT_A, CONCERT_HZ = 60, 69, 440.0
NAMED = {"middle c": 60, "concert a": 69, "tenor c": 48, "high c": 84, "double high c": 96}
"""Names that need no octave -> MIDI note."""
ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_LETTER = r"(?P<letter>[A-Ga-g])"
_SIGN = r"(?P<sign>#|♯|♭|b(?![a-z])|[ -]?(?:sharp|flat))"
_UNIT = r"(?!\s*-?(?:s\b|sec|second|minute|times|note|bar|beat))"
_NAMES, _ORDINALS = "|".join(sorted(NAMED, key=len, reverse=True)), "|".join(ORDINALS)
_PATTERNS = {
    "above": rf"\b{_LETTER}{_SIGN}?\s+(?P<side>above|below)\s+middle\s+C\b",
    "named": rf"\b(?P<name>{_NAMES})\b(?!\s*[#♯♭0-9]|\s+(?:sharp|flat|major|minor))",
    "a440": r"\bA\s?=?\s?440\b(?:\s?(?:Hz|hertz)\b)?",
    "hertz": r"\b(?P<hertz>\d{2,5}(?:\.\d+)?)\s?(?:Hz|hertz)\b",
    "midi": r"\b(?:MIDI(?:\s+(?:note|key|number|pitch))*|note\s+number)\s+(?P<midi>\d{1,3})\b",
    "in": rf"\b{_LETTER}{_SIGN}?\s+(?:in|of)\s+(?:the\s+)?"
    rf"(?:octave\s+(?P<octave>\d)|(?P<ordinal>{_ORDINALS})\s+octave)\b",
    "signed": rf"\b{_LETTER}{_SIGN}[ -]?(?P<octave>-1|\d)\b{_UNIT}",
    "plain": rf"\b{_LETTER}(?P<octave>-1|\d)\b(?!\s*(?:major|minor)\s+key)",
    "spaced": rf"\b(?P<letter>[B-G]) (?P<octave>\d)\b{_UNIT}",
    "primes": rf"(?<![\w'′’]){_LETTER}{_SIGN}?(?P<primes>['′’]{{1,4}})(?=[\s,.;:)]|$)",
}
_KNOWN = re.compile(r"[A-G](?:#|b| sharp | flat )?(?:-1|\d)")
"""Spellings of the captions, see `lumina_audio.datasets.instruments.captions.note_name`."""
_SENSITIVE = {"spaced", "primes"}
"""Patterns for which the case of letters matters."""
_COMPILED = {
    kind: re.compile(pattern, 0 if kind in _SENSITIVE else re.IGNORECASE) for kind, pattern in _PATTERNS.items()
}


def normalize_note_names(text: str, keep_known: bool = False) -> str:
    """Replace the names of notes in a text by letter, sharp and octave: `C#4`, where C4 is middle C.

    Understood: C4, c4, C 4, C₄; C#4, C♯4, C sharp 4, C-sharp 4; Db4, D♭4, D flat 4; middle C, the A above middle C,
    concert A, A440, high C, tenor C; c' and c'' (Helmholtz, lower case); C in the fourth octave; 261.6 Hz; MIDI note
    60. Notes without an octave, such as the root of `C major chord`, stay as they are.

    Args:
        text: a prompt.
        keep_known: leave the spellings of the training captions as they are: C4, C#4, Db4, C sharp 4, D flat 4.
    """
    text = text.translate(DIGITS)
    for kind, pattern in _COMPILED.items():
        if kind == "primes" and re.search(r"(?:^|\s)['′’]\w", text):
            continue  # the text has quotation marks
        text = pattern.sub(_replacement(kind, keep_known), text)
    return text


def parse_note_names(text: str) -> list[int]:
    """Return the MIDI numbers of the notes that a text names with an octave, in their order."""
    found = re.finditer(r"\b([A-G])(#?)(-1|\d)\b", normalize_note_names(text))
    return [
        12 * (int(octave) + 1) + LETTERS[letter] + len(sharp) for letter, sharp, octave in (m.groups() for m in found)
    ]


def canonical_note_name(note: int) -> str:
    """Name a MIDI note by letter, sharp and octave: 60 is C4, 61 is C#4."""
    return f"{SHARPS[note % 12]}{note // 12 - 1}"


def _replacement(kind: str, keep_known: bool) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        if keep_known and _KNOWN.fullmatch(match.group()):
            return match.group()
        note = _note_of(kind, match)
        return match.group() if note is None or not 0 <= note <= 127 else canonical_note_name(note)

    return replace


def _note_of(kind: str, match: re.Match[str]) -> int | None:
    groups = match.groupdict()
    if kind == "named":
        return NAMED[" ".join(groups["name"].lower().split())]
    if kind == "a440":
        return CONCERT_A
    if kind == "hertz":
        return round(CONCERT_A + 12 * math.log2(float(groups["hertz"]) / CONCERT_HZ))
    if kind == "midi":
        return int(groups["midi"])
    pitch_class = LETTERS[groups["letter"].upper()] + _accidental(groups.get("sign"))
    if kind == "above":
        return MIDDLE_C + (pitch_class % 12 or 12) - (0 if groups["side"].lower() == "above" else 12)
    if kind == "primes":
        # Helmholtz: c' is middle C
        return MIDDLE_C + 12 * (len(groups["primes"]) - 1) + pitch_class if groups["letter"].islower() else None
    octave = groups.get("octave") or str(ORDINALS.index(str(groups.get("ordinal")).lower()))
    return 12 * (int(octave) + 1) + pitch_class


def _accidental(sign: str | None) -> int:
    if not sign:
        return 0
    return 1 if sign in ("#", "♯") or "sharp" in sign.lower() else -1
