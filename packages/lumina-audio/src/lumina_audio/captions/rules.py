"""A structured caption from plain words, by cue words; a language model only where one is handed over.

The rules are our own proposal: the published demo asks a language model for every caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from lumina_audio.captions.structured import Event, When, is_structured, parse, write
from lumina_core.errors import ConfigError

Ask = Callable[[str], str]
"""A plain caption -> a structured one, by a language model for instance."""

_NEXT = re.compile(
    r"[\s,;]*\b(?:(?:and\s+)?(?:is\s+|are\s+)?followed\s+by|(?:and|before)?\s*\bthen(?:\s+by)?|before|after\s+which|"
    r"after\s+that|afterwards|and\s+later|and\s+finally|until)\b[\s,]*|[.;]\s+",
    re.IGNORECASE,
)
"""One thing comes after another."""
_LAST_FIRST = re.compile(r"[\s,]*\bafter\b\s+", re.IGNORECASE)
"""What stands behind it is heard first."""
_TOGETHER = re.compile(
    r"[\s,]*\b(?:while|as|whilst|along\s+with|accompanied\s+by)\b\s+|\s*,\s+(?:and\s+)?", re.IGNORECASE
)
"""Things are heard at the same time."""
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_CUES: tuple[tuple[When, str], ...] = (
    (
        "all",
        r"throughout(?:\s+(?:it|the\s+(?:clip|recording|sound|scene)))?|in\s+the\s+background|all\s+the\s+time|"
        r"the\s+whole\s+time|all\s+along|from\s+start\s+to\s+end|continuously|constantly",
    ),
    (
        "start",
        r"(?:in|at)\s+the\s+(?:very\s+)?(?:beginning|start)|at\s+first|to\s+begin\s+with|initially|"
        r"(?<!the\s)first(?=\s*,)",
    ),
    ("mid", r"in\s+the\s+middle|halfway(?:\s+through)?|midway|in\s+between"),
    ("end", r"(?:at|in|towards)\s+the\s+(?:very\s+)?end|finally|eventually|lastly|at\s+last"),
)
"""Words that say when by themselves; they are taken out."""
_FEWEST = 2
"""Words that stand on each side of an `and` that parts two events, so that rock and roll stays one."""


def structure(text: str, ask: Ask | None = None) -> str:
    """The structured caption of a text: itself where it is one, the asked one's answer, or by rules.

    Args:
        ask: asked first; where its answer is no structured caption, the rules are taken.

    Raises:
        ConfigError: the text has the marks of a structured caption, and something in it is wrong.
    """
    if is_structured(text):
        return write(parse(text))
    if ask is not None:
        try:
            return write(parse(ask(text)))
        except ConfigError:
            pass  # it could not say: language models answer in other forms now and then
    return write(events(text))


def events(text: str) -> tuple[Event, ...]:
    """What is heard and when, by cue words.

    A text is cut where something follows, then where things sound together; stretches in order are start, mid and end,
    a single one is all. Words such as `in the background` or `at the end` say it by themselves.

    Raises:
        ConfigError: there are no words.
    """
    stretches = [stretch for sentence in _stretches(_plain(text)) if (stretch := list(_together(sentence)))]
    if not stretches:
        raise ConfigError("a caption needs words; this one has none")
    found = []
    for place, stretch in enumerate(stretches):
        found += [Event(words, when or _when(place, len(stretches))) for words, when in stretch]
    return tuple(found)


def _plain(text: str) -> str:
    return re.sub(r"[<>@&\s]+", " ", text).strip()


def _stretches(text: str) -> Iterator[str]:
    """Parts in the order in which they are heard."""
    for part in _NEXT.split(text):
        yield from reversed(_LAST_FIRST.split(part, maxsplit=1))


def _together(stretch: str) -> Iterator[tuple[str, When | None]]:
    """Words and, where a cue in them says it, when."""
    for part in _TOGETHER.split(stretch):
        for piece in _parted(part):
            words, when = _cued(piece)
            words = words.strip(" ,.;:")
            if words and words.lower() not in ("and", "then", "with"):
                yield words, when


def _parted(text: str) -> Sequence[str]:
    parts = _AND.split(text)
    whole = parts[:1]
    for part in parts[1:]:
        if min(len(whole[-1].split()), len(part.split())) >= _FEWEST:
            whole.append(part)
        else:
            whole[-1] = f"{whole[-1]} and {part}"
    return whole


def _cued(words: str) -> tuple[str, When | None]:
    for when, cue in _CUES:
        rest, count = re.subn(rf"[\s,]*\b(?:{cue})\b[\s,]*", " ", words, flags=re.IGNORECASE)
        if count:
            return rest, when
    return words, None


def _when(place: int, count: int) -> When:
    if count == 1:
        return "all"
    if place == 0:
        return "start"
    return "end" if place == count - 1 else "mid"
