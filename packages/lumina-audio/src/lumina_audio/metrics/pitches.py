"""Is a sound as high as was asked: its pitch beside the note that the prompt names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.heard import Hearing, heard
from lumina_audio.pitch import pitch
from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.judging import Features, Judged
from lumina_core.measures.batches import of_one_size

RATE, CHUNK = 16000, 16


class Pitch:
    """The MIDI number of a sound's steady part, and how sure it is; `lumina_audio.pitch` says how."""

    name, key = "SWIPE'", "swipe prime 27.5-109 by 0.1"

    class Config(Hearing):
        """Of what rate the sounds are."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 2) float32."""
        parts = of_one_size(heard(items, self.config.rate, RATE), CHUNK)
        return torch.cat([torch.stack(pitch(part, RATE), 1) for part in parts])


class PitchAccuracy:
    """The shares of sounds that are at the pitch that was named, of those whose prompt names one. Our own measure.

    `right`: within `within` of a semitone. `octave_off`: at the same note in another octave; not among the right ones.
    `right_of_real`: the real sound that was asked for is found at its pitch. That is what can be expected, for the
    estimator errs, and some instruments sound an octave or a fifth beside the note that is played. `as_real`: as high
    as the real sound, by the same estimator.

    What is said of an example has `pitch`, a MIDI number, where its prompt names it, else None or nothing.
    """

    name, least = "pitch", 1

    class Config(Settings):
        """By which estimator, and how near is near enough."""

        features: Use = Use(use="audio.pitch")
        within: float = Field(1.0, gt=0, le=6, description="semitones from the note that still count as it")

    def __init__(self, config: Config, features: Features) -> None:
        self.config, self.features = config, features

    def figures(self, judged: Judged) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1, NaN where no pitch is named."""
        said = [case.said.get("pitch") for case in judged.cases]
        named = torch.tensor([float("nan") if note is None else float(note) for note in said], dtype=torch.float64)
        made, real = judged.made[:, 0].double(), judged.real[judged.right][:, 0].double()
        off = made - named
        octaves = (off / 12).round()
        elsewhere = (octaves != 0) & ((off - 12 * octaves).abs() <= self.config.within)
        found = {
            "right": off.abs() <= self.config.within,
            "octave_off": elsewhere,
            "right_of_real": (real - named).abs() <= self.config.within,
            "as_real": (made - real).abs() <= self.config.within,
        }
        return {name: true.double().masked_fill(named.isnan(), torch.nan) for name, true in found.items()}
