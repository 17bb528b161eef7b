"""The built-in effects: short noises, drums and loops, each with the words of its name."""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import Field

from lumina_audio.datasets.sound_set import fitted
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.parts import Example

RATE = 16000
FRAMED = ("{}", "{}", "the sound of {}", "a sound effect: {}")


class EffectsDataset:
    """165 sounds of Sonic Pi's, cut or padded to one length; data/effects/card.md tells of them."""

    class Config(Settings):
        """How long, and where they are cut."""

        seconds: float = Field(2.048, gt=0, le=60, description="length that every sound is cut or padded to")
        multiple: int = Field(512, ge=1, le=65536, description="it is rounded up to a multiple of so many samples")
        crop: Literal["random", "start"] = Field("start", description="where a longer sound is cut")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.samples = -(-round(config.seconds * RATE) // config.multiple) * config.multiple

    def __len__(self) -> int:
        return len(records())

    def example(self, index: int, draw: random.Random) -> Example:
        """`sound` (1, samples) in [-1, 1] at 16 kHz, `caption`, and `label`: the place in the pack."""
        record = records()[index]
        spare = max(record["samples"] - self.samples, 0)
        start = record["start"] + (draw.randint(0, spare) if self.config.crop == "random" else 0)
        part = _sound()[start : start + min(record["samples"], self.samples)]
        wave = torch.from_numpy(part.astype("float32"))[None] / 32768
        return {"sound": fitted(wave, self.samples), "caption": draw.choice(captions(index)), "label": index}

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: all of them. `label`: every place.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return range(len(self))
        if field != "caption":
            raise ConfigError(f"audio.effects lists the values of 'caption' and 'label', not of '{field}'")
        return list(dict.fromkeys(said for index in range(len(self)) for said in captions(index)))

    def weight(self, index: int) -> float:
        """1 for all."""
        return 1.0


@functools.lru_cache(maxsize=1)
def records() -> tuple[dict[str, Any], ...]:
    """One a sound: `name`, `category`, `words`, and where it is: `start` and `samples`."""
    text = (files("lumina_audio") / "data/effects/effects.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def captions(index: int) -> list[str]:
    """What is said of a sound, the more usual more than once: `electronic beep`, `the sound of electronic beep`."""
    record = records()[index]
    full = " ".join(word for word in (record["category"], record["words"]) if word)
    said = [frame.format(full) for frame in FRAMED]
    return [*said, f"{record['category']}, {record['words']}"] if record["category"] and record["words"] else said


@functools.lru_cache(maxsize=1)
def _sound() -> NDArray[np.int16]:
    data = (files("lumina_audio") / "data/effects/effects.ogg").read_bytes()
    wave: NDArray[np.int16] = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    wave.setflags(write=False)
    return wave
