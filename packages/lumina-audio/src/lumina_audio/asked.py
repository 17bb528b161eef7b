"""What can be asked of a model of sound: a sentence, a duration, and a sound to begin from."""

from __future__ import annotations

from pydantic import Field

from lumina_core.request import Request


class TimedRequest(Request):
    """Sounds of a duration."""

    seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="how long it is, any duration; left out: as long as those that the model learnt from",
    )


class SoundRequest(TimedRequest):
    """A sentence in, sounds out."""

    prompt: str = Field(max_length=20000, description="what is heard")
    negative: str | None = Field(None, max_length=20000, description="what to stay away from")
