"""Names of notes in prompts: all usual spellings to the one that captions of the built-in instruments use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SYLLABLES = {"do": 0, "ut": 0, "re": 2, "ré": 2, "mi": 4, "fa": 5, "sol": 7, "so": 7, "la": 9, "si": 11, "ti": 11}
SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MIDDLE_C, CONCERT_A, CONCERT_HZ, MAX_HZ = 60, 69, 440.0, 4500.0
NAMED = {
    "concert a": 69,
    "concert pitch a": 69,
    "kammerton": 69,
    "kammerton a": 69,
    "tenor c": 48,
    "high c": 84,
    "double high c": 96,
}
"""Names that need no octave -> MIDI note."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789" * 2)

_LETTER = r"(?P<letter>[A-Ha-h])"  # H is the German name of B
_SIGN = (
    r"(?P<sign>[ -]?double[ -](?:sharp|flat)|[ -]?(?:sharp|flat|dièse|bémol)|##|♯♯|𝄪|bb|♭♭|𝄫|#|♯|♭|b(?![a-z])"
    r"|(?:is|es|(?<=[AEae])s)(?=\d))"
)
_NUMBER = rf"(?P<octave>-1|\d|{'|'.join(NUMBERS)})"
_UNIT = r"(?!\s*-?(?:s\b|sec|second|minute|times|note|bar|beat|octave))"
_NAMES, _ORDINALS = "|".join(sorted(NAMED, key=len, reverse=True)), rf"{'|'.join(ORDINALS)}|\d(?:st|nd|rd|th)"
_PATTERNS = {
    "above": rf"\b{_LETTER}{_SIGN}?\s+(?:just\s+|right\s+)?(?P<side>above|below)\s+middle[\s-]C\b",
    "middle": r"\b(?i:middle)[\s-]?(?P<letter>[A-H]|c)" + _SIGN + r"?(?![\w#♯♭]|\s+(?i:major|minor))",
    "named": rf"\b(?P<name>{_NAMES})\b(?!\s*[#♯♭0-9]|\s+(?:sharp|flat|major|minor))",
    "a440": r"\bA4?\s?=?\s?440(?:\s?(?:Hz|hertz))?\b",
    "hertz": r"\b(?P<hertz>\d+(?:[.,]\d+)?)\s?(?P<kilo>k)?(?:Hz|hertz)\b",
    "midi": rf"\b(?:MIDI|note)(?:[\s-]+(?:note|key|number|pitch|no\b))*[\s.:=#-]*(?P<midi>\d{{2,3}})\b{_UNIT}",
    "in": rf"\b{_LETTER}{_SIGN}?\s+(?:in|of)\s+(?:the\s+)?(?:octave\s+{_NUMBER}|(?P<ordinal>{_ORDINALS})\s+octave)\b",
    "of": rf"\b(?P<ordinal>{_ORDINALS})[\s-]octave\s+{_LETTER}{_SIGN}?(?![\w#♯♭])",
    "syllable": rf"\b(?!(?:do|so)\s)(?P<syllable>{'|'.join(SYLLABLES)}){_SIGN}?[ -]?(?P<octave>\d)\b{_UNIT}",
    "signed": rf"\b{_LETTER}{_SIGN}[ -]?{_NUMBER}\b{_UNIT}",
    "plain": rf"\b{_LETTER}(?P<octave>-1|[-_.]?\d)\b(?!\s*(?:major|minor)\s+key)",
    "spaced": rf"\b(?P<letter>[B-H]) {_NUMBER}\b{_UNIT}",
    "primes": rf"(?<![\w'′’]){_LETTER}{_SIGN}?(?P<primes>['′’]{{1,4}})(?=[\s,.;:)]|$)",
    "octaves": rf"\b(?:C\s+)?(?P<count>an?|\d|{'|'.join(NUMBERS)})\s+octaves?\s+(?P<side>above|below)\s+"
    rf"(?P<letter>[A-G]){_SIGN}?\s?(?P<octave>\d)\b",
    "bare": r"(?P<before>(?:^|\b(?i:plays?|playing|sings?|note|tone|pitch|from|starting\s+on)[:\s]+)"
    r"(?i:(?:the\s+)?note\s+|an?\s+|the\s+)?)"
    r"\b(?:(?P<letter>[A-H]|[a-h](?=[#♯♭]|[ -]?(?:sharp|flat)))|(?P<syllable>(?i:do|re|ré|mi|fa|sol|la|si|ti)))"
    + _SIGN
    + r"?(?=\s*(?:$|[,.;:!?)])|\s+(?:on|with|for|from|to|at|and|then|softly|loudly|quietly|slowly)\b)",
}
_OCTAVE = r"(?:-1|\d)"
_KNOWN = re.compile(rf"[A-G]{_OCTAVE}|[CDFGA](?:#| sharp ){_OCTAVE}|[DEGAB](?:b| flat ){_OCTAVE}")
"""Spellings of the captions, see `lumina_audio.datasets.instruments.captions.note_name`."""
_SENSITIVE = {"middle", "spaced", "primes", "bare"}
"""Patterns for which the case of letters matters."""
_COMPILED = {
    kind: re.compile(pattern, 0 if kind in _SENSITIVE else re.IGNORECASE) for kind, pattern in _PATTERNS.items()
}


def normalize_note_names(text: str, keep_known: bool = False) -> str:
    """Replace the names of notes in a text by letter, sharp and octave: `C#4`, where C4 is middle C.

    Understood: C4, c4, C 4, C-4, C₄, C four; C#4, C♯4, C sharp 4, Cis4; Db4, D♭4, D flat 4, Des4; C##4, Cbb4; H3
    (German, B3); do4, la 4, fa#3 (do4 is C4); middle C, middle D, the A above middle C, two octaves above middle C,
    concert A, A440, high C, tenor C; c' and c'' (Helmholtz, lower case); C in the fourth octave, C in octave 4;
    261.6 Hz, 1 kHz; MIDI note 60, MIDI 60, note 60. A note that is played without an octave, as in `plays B flat` and
    `do on a flute`, gets octave 4, since training captions name notes with their octave; the root of `C major chord`
    and the key of `a B flat clarinet` stay as they are.

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
        if note is None or not 0 <= note <= 127:
            return match.group()
        return match.groupdict().get("before", "") + canonical_note_name(note)

    return replace


def _note_of(kind: str, match: re.Match[str]) -> int | None:
    groups = match.groupdict()
    if kind == "named":
        return NAMED[" ".join(groups["name"].lower().split())]
    if kind == "a440":
        return CONCERT_A
    if kind == "hertz":
        hertz = float(groups["hertz"].replace(",", ".")) * (1000 if groups["kilo"] else 1)
        return round(CONCERT_A + 12 * math.log2(hertz / CONCERT_HZ)) if 0 < hertz <= MAX_HZ else None
    if kind == "midi":
        return int(groups["midi"])
    if groups.get("syllable"):
        pitch_class = SYLLABLES[groups["syllable"].lower()]
    else:
        pitch_class = LETTERS[groups["letter"].upper().replace("H", "B")]
    pitch_class += _accidental(groups.get("sign"))
    if kind in ("middle", "bare"):
        return MIDDLE_C + pitch_class
    if kind == "above":
        is_above = groups["side"].lower() == "above"
        return MIDDLE_C + ((pitch_class % 12 or 12) if is_above else pitch_class % 12 - 12)
    if kind == "primes":
        # Helmholtz: c' is middle C
        return MIDDLE_C + 12 * (len(groups["primes"]) - 1) + pitch_class if groups["letter"].islower() else None
    note = 12 * (_number(groups.get("octave") or groups["ordinal"]) + 1) + pitch_class
    if kind == "octaves":
        count = 12 * _number(groups["count"])
        note += count if groups["side"].lower() == "above" else -count
    return note


def _number(text: str) -> int:
    """Convert 4, -4 (a hyphen), four, fourth, 4th and a to a number; -1 is the octave below 0."""
    text = text.lower()
    for words in (NUMBERS, ORDINALS):
        if text in words:
            return words.index(text)
    return -1 if text == "-1" else 1 if text in ("a", "an") else int(re.sub(r"\D", "", text))


def _accidental(sign: str | None) -> int:
    if not sign:
        return 0
    sign = sign.lower()
    direction = 1 if sign == "is" or any(name in sign for name in ("#", "♯", "𝄪", "sharp", "dièse")) else -1
    return direction * (2 if "double" in sign or sign in ("##", "♯♯", "𝄪", "bb", "♭♭", "𝄫") else 1)
