"""Structured captions of audio, `<event& start>@<event& end>`: parse, format, and create them from plain text by rules.

The rules are our own; the published demo asks a language model for each structured caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from lumina_core.errors import ConfigError, suggest

TimeTag = Literal["start", "mid", "end", "all"]
"""Section of a clip in which an event is heard; `all`: in every section."""
TIME_TAGS: tuple[str, ...] = get_args(TimeTag)
_EVENT_PATTERN = re.compile(r"<([^<>]*)>")
_EXPECTED_FORM = "expected <event& start>@<event& all> with the tags start, mid, end and all"


@dataclass(frozen=True)
class Event:
    """Sound event and the section of the clip in which it is heard.

    Raises:
        ConfigError: the description is empty or has <, > or a line end, or the tag is unknown.
    """

    description: str
    tag: TimeTag = "all"

    def __post_init__(self) -> None:
        text = self.description
        if not text.strip() or text != text.strip() or re.search(r"[<>\n]", text):
            raise ConfigError(
                f"event of a structured caption: got {text!r:.80}, expected text without <, > and line ends"
            )
        if self.tag not in TIME_TAGS:
            raise ConfigError(
                f"tag of a structured caption: got {self.tag!r}, expected one of {', '.join(TIME_TAGS)}"
                f"{suggest(self.tag, TIME_TAGS)}"
            )


def parse_structured(text: str) -> tuple[Event, ...]:
    """Parse a structured caption; blanks around its marks and a final period are ignored.

    Raises:
        ConfigError: the text is no structured caption, or a tag is unknown.
    """
    stripped = text.strip().removesuffix(".").rstrip()
    parts = _EVENT_PATTERN.findall(stripped)
    if not parts or _EVENT_PATTERN.sub("", stripped).replace(" ", "") != "@" * (len(parts) - 1):
        raise ConfigError(f"structured caption: got {text!r:.80}, {_EXPECTED_FORM}")
    return tuple(_parse_event(part) for part in parts)


def format_structured(events: Sequence[Event]) -> str:
    """Format events as a structured caption, the inverse of `parse_structured`.

    Raises:
        ConfigError: there are no events.
    """
    if not events:
        raise ConfigError(f"structured caption: got no events, {_EXPECTED_FORM}")
    return "@".join(f"<{event.description}& {event.tag}>" for event in events)


def is_structured(text: str) -> bool:
    """Whether a text has the marks of a structured caption; it may still be malformed."""
    stripped = text.strip()
    return stripped.startswith("<") and "&" in stripped


def plain_text(text: str) -> str:
    """Return the descriptions of a structured caption, joined by commas; any other text is returned unchanged.

    Raises:
        ConfigError: a structured caption is malformed.
    """
    return ", ".join(event.description for event in parse_structured(text)) if is_structured(text) else text


def _parse_event(part: str) -> Event:
    description, separator, tag = part.rpartition("&")
    if not separator:
        raise ConfigError(f"event of a structured caption: got <{part!r:.80}> without a tag, {_EXPECTED_FORM}")
    return Event(description.strip(), cast(TimeTag, tag.strip().lower()))


_SEQUENCE_CUES = re.compile(
    r"[\s,;]*\b(?:(?:and\s+)?(?:is\s+|are\s+)?followed\s+by|(?:and|before)?\s*\bthen(?:\s+by)?|before|after\s+which|"
    r"after\s+that|afterwards|and\s+later|and\s+finally|until)\b[\s,]*|[.;]\s+",
    re.IGNORECASE,
)
"""Separators of consecutive events."""
_REVERSED_CUES = re.compile(r"[\s,]*\bafter\b\s+", re.IGNORECASE)
"""Separators whose right side is heard first."""
_OVERLAP_CUES = re.compile(
    r"[\s,]*\b(?:while|as|whilst|along\s+with|accompanied\s+by)\b\s+|\s*,\s+(?:and\s+)?", re.IGNORECASE
)
"""Separators of simultaneous events."""
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
"""Adverbials that set the tag of their event; they are removed from its description."""
_MIN_WORDS = 2
"""Words on each side of an `and` that separates two events; `rock and roll` stays one."""


def to_structured_caption(text: str, model: Callable[[str], str] | None = None) -> str:
    """Create the structured caption of a text; a structured caption is returned as it is.

    Args:
        text: plain or structured caption.
        model: language model, from a plain to a structured caption; its malformed answers are replaced by the rules of
            `extract_events`. None: the rules alone.

    Raises:
        ConfigError: the text is a malformed structured caption, or has no words.
    """
    if is_structured(text):
        return format_structured(parse_structured(text))
    if model is not None:
        try:
            return format_structured(parse_structured(model(text)))
        except ConfigError:
            pass
    return format_structured(extract_events(text))


def extract_events(text: str) -> tuple[Event, ...]:
    """Extract the events of a plain caption by cue words.

    The text is split at cues of sequence, then at cues of overlap. Consecutive segments get the tags start, mid and
    end, a single segment gets all. Adverbials such as `in the background` or `at the end` override these tags.

    Raises:
        ConfigError: the text has no words.
    """
    plain = re.sub(r"[<>@&\s]+", " ", text).strip()
    segments = [group for segment in _split_sequence(plain) if (group := list(_split_overlapping(segment)))]
    if not segments:
        raise ConfigError("caption: got no words, expected a description of the audio")
    last = len(segments) - 1
    events: list[Event] = []
    for index, segment in enumerate(segments):
        default: TimeTag = "all" if not last else "start" if not index else "end" if index == last else "mid"
        events += [Event(description, tag or default) for description, tag in segment]
    return tuple(events)


def _split_sequence(text: str) -> Iterator[str]:
    """Split a text into segments in the order in which they are heard."""
    for part in _SEQUENCE_CUES.split(text):
        yield from reversed(_REVERSED_CUES.split(part, maxsplit=1))


def _split_overlapping(segment: str) -> Iterator[tuple[str, TimeTag | None]]:
    """Split a segment into simultaneous events, each with the tag of its adverbial, if any."""
    for part in _OVERLAP_CUES.split(segment):
        for clause in _split_conjunction(part):
            words, tag = _extract_cue(clause)
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
