"""The structured caption of Lumina-T2Audio, `<event& start|mid|end|all>@<...>`: read, written, kept to its four tags.

The form is that of lumina_audio/n2s_openai.py, after Make-An-Audio 2 (arXiv 2305.18474): an event and when it is heard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from lumina_core.errors import ConfigError, near

When = Literal["start", "mid", "end", "all"]
"""In which part of a sound something is heard; `all`: in every part."""
TAGS: tuple[str, ...] = get_args(When)
_PART = re.compile(r"<([^<>]*)>")
_FORM = "wanted <event& start>@<event& all>, with the tags start, mid, end and all"


@dataclass(frozen=True)
class Event:
    """Something heard, in words, and when.

    Raises:
        ConfigError: there are no words, or they hold the marks of the form itself.
    """

    words: str
    when: When = "all"

    def __post_init__(self) -> None:
        if not self.words.strip() or self.words != self.words.strip() or re.search(r"[<>\n]", self.words):
            raise ConfigError(f"{self.words!r:.80} cannot be an event; wanted words without <, > and line ends")
        if self.when not in TAGS:
            raise ConfigError(f"an event is heard at the tag '{self.when}'{_offered(self.when)}")


def parse(text: str) -> tuple[Event, ...]:
    """The events of a structured caption, in order; blanks between its marks and a full stop at its end do not matter.

    Raises:
        ConfigError: it is none, or a tag is unknown (the nearest is offered).
    """
    said = text.strip().removesuffix(".").rstrip()
    parts = _PART.findall(said)
    if not parts or _PART.sub("", said).replace(" ", "") != "@" * (len(parts) - 1):
        raise ConfigError(f"{text!r:.80} is no structured caption; {_FORM}")
    return tuple(_event(part) for part in parts)


def write(events: Sequence[Event]) -> str:
    """The structured caption of these events; `parse` gives them back.

    Raises:
        ConfigError: there are none.
    """
    if not events:
        raise ConfigError(f"a structured caption has at least one event; {_FORM}")
    return "@".join(f"<{event.words}& {event.when}>" for event in events)


def plain(text: str) -> str:
    """A text as it is, or the bare words of a structured caption.

    Raises:
        ConfigError: it has the marks of a structured caption, and something in it is wrong.
    """
    return ", ".join(event.words for event in parse(text)) if is_structured(text) else text


def is_structured(text: str) -> bool:
    """Whether a text has the marks of the form; what they hold may still be wrong."""
    said = text.strip()
    return said.startswith("<") and "&" in said


def _event(part: str) -> Event:
    words, mark, tag = part.rpartition("&")
    if not mark:
        raise ConfigError(f"<{part!r:.80}> says no time; {_FORM}")
    tag = tag.strip().lower()
    if tag not in TAGS:
        raise ConfigError(f"<{part!r:.80}> has the unknown tag {tag!r}{_offered(tag)}")
    return Event(words.strip(), cast(When, tag))


def _offered(tag: str) -> str:
    return near(tag, TAGS) or f"; the tags are {', '.join(TAGS)}"
