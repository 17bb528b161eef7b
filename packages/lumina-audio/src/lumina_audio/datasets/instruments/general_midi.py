"""The 128 programs of General MIDI with the names, articles and note ranges that captions use."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

_ARTICLE_MARKS = {"*": "", "~": "", "^": "the "}
"""Marks before a name in data/general_midi.tsv -> the article of the name."""


@dataclass(frozen=True)
class InstrumentName:
    """A name of an instrument.

    Attributes:
        text: the name without an article.
        article: `a `, `an `, `the `, or empty if the name takes none.
        plural: whether the verb is plural: `tubular bells play`.
    """

    text: str
    article: str
    plural: bool

    @property
    def with_article(self) -> str:
        """The name with its article: `an oboe`, `tubular bells`."""
        return self.article + self.text


@dataclass(frozen=True)
class Instrument:
    """A program of General MIDI.

    Attributes:
        program: 0 to 127.
        names: the default name first.
        family: one of the 16 families of General MIDI.
        register: lowest and highest suitable MIDI note; None if the program has no recognizable pitch.
    """

    program: int
    names: tuple[InstrumentName, ...]
    family: str
    register: tuple[int, int] | None

    @property
    def name(self) -> str:
        """The default name without an article."""
        return self.names[0].text


@functools.lru_cache(maxsize=1)
def instruments() -> tuple[Instrument, ...]:
    """Read all 128 programs, in the order of their numbers."""
    text = (files("lumina_audio") / "data/general_midi.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    return tuple(_parse_row(row) for row in rows)


def indefinite_article(word: str) -> str:
    """Select `an ` before a vowel sound (FM is pronounced "eff em"), otherwise `a `."""
    return "an " if word[0].lower() in "aeio" or word.startswith(("FM", "up")) else "a "


def _parse_row(row: dict[str, str]) -> Instrument:
    low, _, high = row["range"].partition("-")
    names = tuple(_parse_name(name) for name in row["names"].split("; "))
    return Instrument(int(row["program"]), names, row["family"], (int(low), int(high)) if low else None)


def _parse_name(marked: str) -> InstrumentName:
    text = marked.lstrip("".join(_ARTICLE_MARKS))
    return InstrumentName(text, _ARTICLE_MARKS.get(marked[0], indefinite_article(text)), marked[0] == "*")
