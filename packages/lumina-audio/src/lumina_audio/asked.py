"""What can be asked of a model of sound: a sentence, a duration, and a sound to begin from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from lumina_audio.captions.structured import is_structured, parse
from lumina_audio.heard import HeardSound
from lumina_core.config import Config
from lumina_core.request import Request

USUAL_STRENGTH = 0.8
"""Of the change of a whole sound; where only a part of it is redrawn, that part is made from noise alone."""
USUAL_FEATHER = 10.0
SPAN = re.compile(r"\s*(\d*\.?\d*)\s*s?\s*-\s*(\d*\.?\d*)\s*s?\s*")
"""START-END, each in seconds; one of them may be left out."""
ABOUT_A_SOUND = ("strength", "span", "continuation", "feather")


class TimedRequest(Request):
    """Sounds of a duration, from noise or from a sound."""

    seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="how long it is, any duration; left out: the model's own, or that of --sound",
    )
    sound: HeardSound | None = Field(
        None, title="FILE", description="a sound to begin from (wav, flac, ogg ...), of any rate and channels"
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much of --sound is changed, 0 nothing, 1 all of it.  "
        f"[default: {USUAL_STRENGTH}, or 1 where only a part is redrawn]",
    )
    span: tuple[tuple[float, float | None], ...] | None = Field(
        None,
        min_length=1,
        title="START-END",
        description="seconds of --sound that are redrawn, for example 0.5-1.2, or 1.5- up to its end; the rest stays; "
        "may be given again and again",
    )
    continuation: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"option": "continue"},
        description="seconds to draw on after the end of --sound, which stays",
    )
    feather: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="milliseconds at the edges of what is redrawn over which --sound passes into it.  "
        f"[default: {USUAL_FEATHER:g}]",
    )

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Any) -> Any:
        # filled in here, so that a record says what was done
        if not isinstance(values, dict) or values.get("sound") is None:
            return values
        partly = any(values.get(name) is not None for name in ("span", "continuation"))
        usual = {"strength": 1.0, "feather": USUAL_FEATHER} if partly else {"strength": USUAL_STRENGTH}
        return {**values, **{name: value for name, value in usual.items() if values.get(name) is None}}

    @field_validator("span", mode="before")
    @classmethod
    def _spans_from_words(cls, value: Any) -> Any:
        # one alone may be handed over: in words, or as a pair of numbers
        alone = isinstance(value, tuple | list) and len(value) == 2 and not isinstance(value[0], str | tuple | list)
        several = (value,) if alone or isinstance(value, str) else value
        if not isinstance(several, tuple | list):
            return value
        parts = [part for one in several for part in (one.split(",") if isinstance(one, str) else (one,))]
        return tuple(_span(part) if isinstance(part, str) else part for part in parts)

    @field_validator("span")
    @classmethod
    def _forward(cls, value: Sequence[tuple[float, float | None]] | None) -> Any:
        for start, end in value or ():
            if not 0 <= start < (math.inf if end is None else end) or end == math.inf:
                raise ValueError("a span goes from a time, 0 or later, to a later one; leave the end out for all of it")
        return value

    @model_validator(mode="after")
    def _about_the_sound(self) -> TimedRequest:
        named = [name for name in ABOUT_A_SOUND if getattr(self, name) is not None]
        if self.sound is None and named:
            option = "continue" if named[0] == "continuation" else named[0]
            raise ValueError(f"{option} is about a sound to begin from; name one with sound")
        if self.seconds is not None and self.continuation is not None:
            raise ValueError("continue says how long it becomes; leave out seconds, or give them alone")
        if self.feather is not None and self.span is None and self.continuation is None:
            raise ValueError("feather is about the edges of what is redrawn; say which part with span or continue")
        return self


def _span(text: str) -> tuple[float, float | None]:
    found = SPAN.fullmatch(text)
    if found is None or not any(part.strip(".") for part in found.groups()):
        raise ValueError("a span is START-END in seconds, for example 0.5-1.2, or 1.5- for all from there on")
    start, end = found.groups()
    return float(start) if start.strip(".") else 0.0, float(end) if end.strip(".") else None


class Number(Config):
    """A number that is said beside the words."""

    name: str = Field(min_length=1)
    value: float = Field(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return {"name": value[0], "value": value[1]} if isinstance(value, tuple | list) else value
        name, sign, number = value.partition("=")
        if not sign:
            raise ValueError("a number is NAME=VALUE, for example pitch=60")
        return {"name": name.strip(), "value": number.strip()}


class SoundRequest(TimedRequest):
    """A sentence in, sounds out."""

    prompt: str = Field(max_length=20000, description="what is heard")
    negative: str | None = Field(None, max_length=20000, description="what to stay away from")
    number: tuple[Number, ...] | None = Field(
        None,
        title="NAME=VALUE",
        description="a number that the model was taught to hear, for example pitch=60; may be given again and again",
    )

    @field_validator("prompt", "negative")
    @classmethod
    def _in_one_of_two_forms(cls, value: str | None) -> str | None:
        if value is not None and is_structured(value):
            parse(value)  # whoever reads it, an unknown tag is a slip
        return value

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty; say what is heard")
        return value

    @field_validator("number", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple(value.items())
        return (value,) if isinstance(value, str | Number) else value
