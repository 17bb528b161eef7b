"""A structured caption from plain words, by cue words; a language model only where one is handed over.

The rules are our own proposal: the published demo asks a language model for every caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from lumina_core.errors import ConfigError, suggest

TimeTag = Literal["start", "mid", "end", "all"]
"""In which part of a sound something is heard; `all`: in every part."""
TIME_TAGS: tuple[str, ...] = get_args(TimeTag)
_EVENT_PATTERN = re.compile(r"<([^<>]*)>")
_FORM_HINT = "wanted <event& start>@<event& all>, with the tags start, mid, end and all"


@dataclass(frozen=True)
class Event:
    """Something heard, in words, and when.

    Raises:
        ConfigError: there are no words, or they hold the marks of the form itself.
    """

    description: str
    tag: TimeTag = "all"

    def __post_init__(self) -> None:
        if (
            not self.description.strip()
            or self.description != self.description.strip()
            or re.search(r"[<>\n]", self.description)
        ):
            raise ConfigError(f"{self.description!r:.80} cannot be an event; wanted words without <, > and line ends")
        if self.tag not in TIME_TAGS:
            raise ConfigError(f"an event is heard at the tag '{self.tag}'{_tag_hint(self.tag)}")


def parse_structured(text: str) -> tuple[Event, ...]:
    """The events of a structured caption, in order; blanks between its marks and a full stop at its end do not matter.

    Raises:
        ConfigError: it is none, or a tag is unknown (the nearest is offered).
    """
    stripped = text.strip().removesuffix(".").rstrip()
    parts = _EVENT_PATTERN.findall(stripped)
    if not parts or _EVENT_PATTERN.sub("", stripped).replace(" ", "") != "@" * (len(parts) - 1):
        raise ConfigError(f"{text!r:.80} is no structured caption; {_FORM_HINT}")
    return tuple(_parse_event(part) for part in parts)


def format_structured(events: Sequence[Event]) -> str:
    """The structured caption of these events; `parse` gives them back.

    Raises:
        ConfigError: there are none.
    """
    if not events:
        raise ConfigError(f"a structured caption has at least one event; {_FORM_HINT}")
    return "@".join(f"<{event.description}& {event.tag}>" for event in events)


def plain_text(text: str) -> str:
    """A text as it is, or the bare words of a structured caption.

    Raises:
        ConfigError: it has the marks of a structured caption, and something in it is wrong.
    """
    return ", ".join(event.description for event in parse_structured(text)) if is_structured(text) else text


def is_structured(text: str) -> bool:
    """Whether a text has the marks of the form; what they hold may still be wrong."""
    stripped = text.strip()
    return stripped.startswith("<") and "&" in stripped


def _parse_event(part: str) -> Event:
    words, mark, tag = part.rpartition("&")
    if not mark:
        raise ConfigError(f"<{part!r:.80}> says no time; {_FORM_HINT}")
    tag = tag.strip().lower()
    if tag not in TIME_TAGS:
        raise ConfigError(f"<{part!r:.80}> has the unknown tag {tag!r}{_tag_hint(tag)}")
    return Event(words.strip(), cast(TimeTag, tag))


def _tag_hint(tag: str) -> str:
    return suggest(tag, TIME_TAGS) or f"; the tags are {', '.join(TIME_TAGS)}"


StructureModel = Callable[[str], str]
"""A plain caption -> a structured one, by a language model for instance."""

_SEQUENCE_CUES = re.compile(
    r"[\s,;]*\b(?:(?:and\s+)?(?:is\s+|are\s+)?followed\s+by|(?:and|before)?\s*\bthen(?:\s+by)?|before|after\s+which|"
    r"after\s+that|afterwards|and\s+later|and\s+finally|until)\b[\s,]*|[.;]\s+",
    re.IGNORECASE,
)
"""One thing comes after another."""
_REVERSED_CUES = re.compile(r"[\s,]*\bafter\b\s+", re.IGNORECASE)
"""What stands behind it is heard first."""
_OVERLAP_CUES = re.compile(
    r"[\s,]*\b(?:while|as|whilst|along\s+with|accompanied\s+by)\b\s+|\s*,\s+(?:and\s+)?", re.IGNORECASE
)
"""Things are heard at the same time."""
_CONJUNCTION = re.compile(r"\s+and\s+", re.IGNORECASE)
_TIME_CUES: tuple[tuple[TimeTag, str], ...] = (
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
_MIN_WORDS = 2
"""Words that stand on each side of an `and` that parts two events, so that rock and roll stays one."""


def to_structured_caption(text: str, model: StructureModel | None = None) -> str:
    """The structured caption of a text: itself where it is one, the asked one's answer, or by rules.

    Args:
        ask: asked first; where its answer is no structured caption, the rules are taken.

    Raises:
        ConfigError: the text has the marks of a structured caption, and something in it is wrong.
    """
    if is_structured(text):
        return format_structured(parse_structured(text))
    if model is not None:
        try:
            return format_structured(parse_structured(model(text)))
        except ConfigError:
            pass  # it could not say: language models answer in other forms now and then
    return format_structured(extract_events(text))


def extract_events(text: str) -> tuple[Event, ...]:
    """What is heard and when, by cue words.

    A text is cut where something follows, then where things sound together; stretches in order are start, mid and end,
    a single one is all. Words such as `in the background` or `at the end` say it by themselves.

    Raises:
        ConfigError: there are no words.
    """
    segments = [
        segment for sentence in _split_sequence(_strip_marks(text)) if (segment := list(_split_overlapping(sentence)))
    ]
    if not segments:
        raise ConfigError("a caption needs words; this one has none")
    result = []
    for index, segment in enumerate(segments):
        result += [Event(words, tag or _default_tag(index, len(segments))) for words, tag in segment]
    return tuple(result)


def _strip_marks(text: str) -> str:
    return re.sub(r"[<>@&\s]+", " ", text).strip()


def _split_sequence(text: str) -> Iterator[str]:
    """Parts in the order in which they are heard."""
    for part in _SEQUENCE_CUES.split(text):
        yield from reversed(_REVERSED_CUES.split(part, maxsplit=1))


def _split_overlapping(segment: str) -> Iterator[tuple[str, TimeTag | None]]:
    """Words and, where a cue in them says it, when."""
    for part in _OVERLAP_CUES.split(segment):
        for tensor in _split_conjunction(part):
            words, tag = _extract_cue(tensor)
            words = words.strip(" ,.;:")
            if words and words.lower() not in ("and", "then", "with"):
                yield words, tag


def _split_conjunction(text: str) -> Sequence[str]:
    parts = _CONJUNCTION.split(text)
    groups = parts[:1]
    for part in parts[1:]:
        if min(len(groups[-1].split()), len(part.split())) >= _MIN_WORDS:
            groups.append(part)
        else:
            groups[-1] = f"{groups[-1]} and {part}"
    return groups


def _extract_cue(words: str) -> tuple[str, TimeTag | None]:
    for tag, cue in _TIME_CUES:
        remainder, count = re.subn(rf"[\s,]*\b(?:{cue})\b[\s,]*", " ", words, flags=re.IGNORECASE)
        if count:
            return remainder, tag
    return words, None


def _default_tag(index: int, count: int) -> TimeTag:
    if count == 1:
        return "all"
    if index == 0:
        return "start"
    return "end" if index == count - 1 else "mid"
