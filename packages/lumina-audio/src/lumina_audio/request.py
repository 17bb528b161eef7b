"""Requests to audio models: prompt, duration, and audio to begin from."""

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
"""Strength of audio-to-audio; inpainting and extension use 1."""
DEFAULT_CROSSFADE_MS = 30.0
SPAN_PATTERN = re.compile(r"\s*(\d*\.?\d*)\s*s?\s*-\s*(\d*\.?\d*)\s*s?\s*")
"""START-END in seconds; one of them may be omitted."""
INIT_AUDIO_FIELDS = ("strength", "inpaint", "extend", "crossfade")


class AudioLengthRequest(Request):
    """Duration, and audio to begin from, to inpaint or to extend."""

    duration: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"aliases": ["seconds"]},
        description="duration in seconds.  [default: that of the model, or of init_audio]",
    )
    init_audio: AudioField | None = Field(
        None, title="FILE", description="audio to begin from (wav, flac, ogg ...), of any sample rate and channels"
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="amount of change to init_audio: 0 keeps it, 1 ignores it.  "
        f"[default: {DEFAULT_STRENGTH}; 1 with inpaint or extend]",
    )
    inpaint: tuple[tuple[float, float | None], ...] | None = Field(
        None,
        min_length=1,
        title="START-END",
        description="span of init_audio in seconds that is generated again, such as 0.5-1.2, or 1.5- up to its end; "
        "can be repeated",
    )
    extend: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds generated after the end of init_audio",
    )
    crossfade: float | None = Field(
        None,
        ge=0,
        le=1000,
        description=f"milliseconds of crossfade at both ends of a generated span.  [default: {DEFAULT_CROSSFADE_MS:g}]",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        # set here instead of as defaults, so that the stored metadata has the values that were used
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
        # accepted: "0.5-1.2", "0.5-1.2,1.5-", (0.5, 1.2), and sequences of these
        is_pair = isinstance(value, tuple | list) and len(value) == 2 and not isinstance(value[0], str | tuple | list)
        spans = (value,) if is_pair or isinstance(value, str) else value
        if not isinstance(spans, tuple | list):
            return value
        parts = [part for span in spans for part in (span.split(",") if isinstance(span, str) else (span,))]
        return tuple(_parse_span(part) if isinstance(part, str) else part for part in parts)

    @field_validator("inpaint")
    @classmethod
    def _check_spans(cls, value: Sequence[tuple[float, float | None]] | None) -> Any:
        for start, end in value or ():
            if not 0 <= start < (math.inf if end is None else end) or end == math.inf:
                raise ValueError(f"got {start:g}-{end}, expected START < END, both 0 or more. Omit END for the end")
        return value

    @model_validator(mode="after")
    def _check_init_audio_fields(self) -> AudioLengthRequest:
        values = self.model_dump(include=set(INIT_AUDIO_FIELDS), exclude_none=True)
        if self.init_audio is None and values:
            raise ValueError(f"{min(values, key=INIT_AUDIO_FIELDS.index)}: needs init_audio, which is not set")
        if self.duration is not None and self.extend is not None:
            raise ValueError("got both duration and extend, expected one of them")
        if self.crossfade is not None and self.inpaint is None and self.extend is None:
            raise ValueError("crossfade: needs inpaint or extend, which are not set")
        return self


def _parse_span(text: str) -> tuple[float, float | None]:
    match = SPAN_PATTERN.fullmatch(text)
    if match is None or not any(part.strip(".") for part in match.groups()):
        raise ValueError(f"got {text!r}, expected START-END in seconds, such as 0.5-1.2, or 1.5- up to the end")
    start, end = match.groups()
    return float(start) if start.strip(".") else 0.0, float(end) if end.strip(".") else None


class NamedValue(Config):
    """Value of a scalar conditioner."""

    name: str = Field(min_length=1)
    value: float = Field(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return {"name": value[0], "value": value[1]} if isinstance(value, tuple | list) else value
        name, separator, number = value.partition("=")
        if not separator:
            raise ValueError(f"got {value!r}, expected NAME=VALUE, such as pitch=60")
        return {"name": name.strip(), "value": number.strip()}


class TextToAudioRequest(AudioLengthRequest):
    """Prompt and values of scalar conditioners."""

    prompt: str = Field(max_length=20000, description="text that describes the audio")
    negative_prompt: str | None = Field(
        None, max_length=20000, description="content to avoid, used by classifier-free guidance"
    )
    scalar: tuple[NamedValue, ...] | None = Field(
        None,
        title="NAME=VALUE",
        description="value of a scalar conditioner of the model, such as pitch=60; can be repeated",
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _check_structured_caption(cls, value: str | None) -> str | None:
        if value is not None and is_structured(value):
            parse_structured(value)  # a misspelt tag is an error even if the model reads plain text
        return value

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("got an empty text, expected a description of the audio")
        return value

    @field_validator("scalar", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple(value.items())
        return (value,) if isinstance(value, str | NamedValue) else value
