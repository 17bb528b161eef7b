"""What can be asked of a model of sound: a sentence, a duration, and a sound to begin from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from lumina_audio.audio_input import AudioField
from lumina_audio.text.structured_caption import is_structured, parse_structured
from lumina_core.config import Config
from lumina_core.request import Request

DEFAULT_STRENGTH = 0.8
"""Of the change of a whole sound; where only a part of it is redrawn, that part is made from noise alone."""
DEFAULT_CROSSFADE_MS = 10.0
SPAN_PATTERN = re.compile(r"\s*(\d*\.?\d*)\s*s?\s*-\s*(\d*\.?\d*)\s*s?\s*")
"""START-END, each in seconds; one of them may be left out."""
INIT_AUDIO_FIELDS = ("strength", "inpaint", "extend", "crossfade")


class AudioLengthRequest(Request):
    """Sounds of a duration, from noise or from a sound."""

    duration: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"aliases": ["seconds"]},
        description="how many seconds it lasts, any number; left out: the model's own, or that of --init-audio",
    )
    init_audio: AudioField | None = Field(
        None, title="FILE", description="a sound to begin from (wav, flac, ogg ...), of any rate and channels"
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much of --init-audio is changed, 0 nothing, 1 all of it.  "
        f"[default: {DEFAULT_STRENGTH}, or 1 where only a part is redrawn]",
    )
    inpaint: tuple[tuple[float, float | None], ...] | None = Field(
        None,
        min_length=1,
        title="START-END",
        description="seconds of --init-audio that are redrawn, for example 0.5-1.2, or 1.5- up to its end; the rest stays; "
        "may be given again and again",
    )
    extend: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds to draw on after the end of --init-audio, which stays",
    )
    crossfade: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="milliseconds at the edges of what is redrawn over which --init-audio passes into it.  "
        f"[default: {DEFAULT_CROSSFADE_MS:g}]",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        # filled in here, so that a record says what was done
        if not isinstance(values, dict) or values.get("init_audio") is None:
            return values
        is_partial = any(values.get(name) is not None for name in ("inpaint", "extend"))
        defaults = (
            {"strength": 1.0, "crossfade": DEFAULT_CROSSFADE_MS} if is_partial else {"strength": DEFAULT_STRENGTH}
        )
        return {**values, **{name: value for name, value in defaults.items() if values.get(name) is None}}

    @field_validator("inpaint", mode="before")
    @classmethod
    def _parse_spans(cls, value: Any) -> Any:
        # one alone may be handed over: in words, or as a pair of numbers
        is_single_pair = (
            isinstance(value, tuple | list) and len(value) == 2 and not isinstance(value[0], str | tuple | list)
        )
        spans = (value,) if is_single_pair or isinstance(value, str) else value
        if not isinstance(spans, tuple | list):
            return value
        parts = [part for span in spans for part in (span.split(",") if isinstance(span, str) else (span,))]
        return tuple(_parse_span(part) if isinstance(part, str) else part for part in parts)

    @field_validator("inpaint")
    @classmethod
    def _check_spans(cls, value: Sequence[tuple[float, float | None]] | None) -> Any:
        for start, end in value or ():
            if not 0 <= start < (math.inf if end is None else end) or end == math.inf:
                raise ValueError("a span goes from a time, 0 or later, to a later one; leave the end out for all of it")
        return value

    @model_validator(mode="after")
    def _check_init_audio_fields(self) -> AudioLengthRequest:
        present = [name for name in INIT_AUDIO_FIELDS if getattr(self, name) is not None]
        if self.init_audio is None and present:
            raise ValueError(f"{present[0]} is about a sound to begin from; name one with init_audio")
        if self.duration is not None and self.extend is not None:
            raise ValueError("extend says how long it becomes; leave out duration, or give it alone")
        if self.crossfade is not None and self.inpaint is None and self.extend is None:
            raise ValueError("crossfade is about the edges of what is redrawn; say which part with inpaint or extend")
        return self


def _parse_span(text: str) -> tuple[float, float | None]:
    match = SPAN_PATTERN.fullmatch(text)
    if match is None or not any(part.strip(".") for part in match.groups()):
        raise ValueError("a span is START-END in seconds, for example 0.5-1.2, or 1.5- for all from there on")
    start, end = match.groups()
    return float(start) if start.strip(".") else 0.0, float(end) if end.strip(".") else None


class NamedValue(Config):
    """A number that is said beside the words."""

    name: str = Field(min_length=1)
    value: float = Field(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return {"name": value[0], "value": value[1]} if isinstance(value, tuple | list) else value
        name, separator, number = value.partition("=")
        if not separator:
            raise ValueError("a scalar is NAME=VALUE, for example pitch=60")
        return {"name": name.strip(), "value": number.strip()}


class TextToAudioRequest(AudioLengthRequest):
    """A sentence in, sounds out."""

    prompt: str = Field(max_length=20000, description="what is heard")
    negative_prompt: str | None = Field(None, max_length=20000, description="what to stay away from")
    scalar: tuple[NamedValue, ...] | None = Field(
        None,
        title="NAME=VALUE",
        description="a number that the model was taught to hear, for example pitch=60; may be given again and again",
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _check_structured_caption(cls, value: str | None) -> str | None:
        if value is not None and is_structured(value):
            parse_structured(value)  # whoever reads it, an unknown tag is a slip
        return value

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty; say what is heard")
        return value

    @field_validator("scalar", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple(value.items())
        return (value,) if isinstance(value, str | NamedValue) else value
