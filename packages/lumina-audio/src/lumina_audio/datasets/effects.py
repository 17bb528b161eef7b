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

from lumina_audio.datasets.audio_dataset import fit_length
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example

SAMPLE_RATE = 16000
CAPTION_TEMPLATES = ("{}", "{}", "the sound of {}", "a sound effect: {}")


class EffectsDataset(Dataset):
    """165 sounds of Sonic Pi's, cut or padded to one length; data/effects/card.md tells of them."""

    class Config(Settings):
        """How long, and where they are cut."""

        duration: float = Field(2.048, gt=0, le=60, description="length that every sound is cut or padded to")
        length_multiple: int = Field(
            512, ge=1, le=65536, description="it is rounded up to a multiple of so many samples"
        )
        crop: Literal["random", "start"] = Field("start", description="where a longer sound is cut")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.num_samples = -(-round(config.duration * SAMPLE_RATE) // config.length_multiple) * config.length_multiple

    def __len__(self) -> int:
        return len(records())

    def get(self, index: int, rng: random.Random) -> Example:
        """`audio` (1, samples) in [-1, 1] at 16 kHz, `caption`, and `label`: the place in the pack."""
        record = records()[index]
        spare = max(record["samples"] - self.num_samples, 0)
        start = record["start"] + (rng.randint(0, spare) if self.config.crop == "random" else 0)
        segment = _load_samples()[start : start + min(record["samples"], self.num_samples)]
        wave = torch.from_numpy(segment.astype("float32"))[None] / 32768
        return {"audio": fit_length(wave, self.num_samples), "caption": rng.choice(captions(index)), "label": index}

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: all of them. `label`: every place.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return range(len(self))
        if field != "caption":
            raise ConfigError(f"audio.effects lists the values of 'caption' and 'label', not of '{field}'")
        return list(dict.fromkeys(text for index in range(len(self)) for text in captions(index)))

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
    texts = [template.format(full) for template in CAPTION_TEMPLATES]
    return [*texts, f"{record['category']}, {record['words']}"] if record["category"] and record["words"] else texts


@functools.lru_cache(maxsize=1)
def _load_samples() -> NDArray[np.int16]:
    data = (files("lumina_audio") / "data/effects/effects.ogg").read_bytes()
    wave: NDArray[np.int16] = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    wave.setflags(write=False)
    return wave
