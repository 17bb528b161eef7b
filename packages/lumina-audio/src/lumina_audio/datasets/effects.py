"""Built-in data set: short sound effects, drums and loops, with captions from their names."""

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
    """The 165 samples of Sonic Pi, cropped or padded to one length; data/effects/card.md documents them."""

    class Config(Settings):
        """Length and crop."""

        duration: float = Field(2.048, gt=0, le=60, description="seconds of every clip")
        length_multiple: int = Field(512, ge=1, le=65536, description="lengths are rounded up to a multiple of samples")
        crop: Literal["random", "start"] = Field("start", description="position of the crop of a longer clip")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.num_samples = -(-round(config.duration * SAMPLE_RATE) // config.length_multiple) * config.length_multiple

    def __len__(self) -> int:
        return len(records())

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `audio` (1, samples) in [-1, 1] at 16 kHz, `caption`, and `label`, the index of the clip."""
        record = records()[index]
        spare = max(record["samples"] - self.num_samples, 0)
        start = record["start"] + (rng.randint(0, spare) if self.config.crop == "random" else 0)
        segment = _load_samples()[start : start + min(record["samples"], self.num_samples)]
        waveform = torch.from_numpy(segment.astype("float32"))[None] / 32768
        return {"audio": fit_length(waveform, self.num_samples), "caption": rng.choice(captions(index)), "label": index}

    def values(self, field: str) -> Sequence[Any]:
        """Return all values of `caption` or `label`.

        Raises:
            ConfigError: the field is another one.
        """
        if field == "label":
            return range(len(self))
        if field != "caption":
            raise ConfigError(f"values of audio.effects: got the field '{field}', expected caption or label")
        return list(dict.fromkeys(text for index in range(len(self)) for text in captions(index)))


@functools.lru_cache(maxsize=1)
def records() -> tuple[dict[str, Any], ...]:
    """Read the record of each clip: `name`, `category`, `words`, `start` and `samples`."""
    text = (files("lumina_audio") / "data/effects/effects.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def captions(index: int) -> list[str]:
    """List the captions of a clip, frequent ones repeatedly: `electronic beep`, `the sound of electronic beep` ..."""
    category, words = records()[index]["category"], records()[index]["words"]
    texts = [template.format(" ".join(filter(None, (category, words)))) for template in CAPTION_TEMPLATES]
    return [*texts, f"{category}, {words}"] if category and words else texts


@functools.lru_cache(maxsize=1)
def _load_samples() -> NDArray[np.int16]:
    data = (files("lumina_audio") / "data/effects/effects.ogg").read_bytes()
    samples: NDArray[np.int16] = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    samples.setflags(write=False)
    return samples
