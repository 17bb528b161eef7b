"""The built-in data set: General MIDI instruments with true captions."""

from __future__ import annotations

import functools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio import instruments_pack
from lumina_audio.general_midi import instruments
from lumina_audio.instruments_exam import InstrumentsExam
from lumina_audio.instruments_pack import Record
from lumina_audio.instruments_words import Heard, caption
from lumina_audio.sounds import resampled
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.parts import Example

SHARES = {"note": 0.62, "chord": 0.13, "phrase": 0.25}
"""How often each kind is drawn of a program; drums and noises have but one kind, and half the weight."""
LISTED = 16
"""Captions of a clip among the listed values."""


class InstrumentsDataset:
    """Two seconds of an instrument, each time with another true caption, and a little higher or lower."""

    class Config(Settings):
        """Which clips, how much they are shifted."""

        split: Literal["train", "held_out", "all"] = Field("train", description="`train` is without those held out")
        shift: int = Field(1, ge=0, le=4, description="largest shift of pitch in semitones, by resampling")

    def __init__(self, config: Config) -> None:
        self.config = config
        everything = instruments_pack.records()
        self._places = [n for n, record in enumerate(everything) if config.split in ("all", record["split"])]
        self._records = [everything[place] for place in self._places]
        self._kept_out = _kept_out(everything)
        self._counts = Counter((record["program"], record["kind"]) for record in self._records)

    def __len__(self) -> int:
        return len(self._records)

    def example(self, index: int, draw: random.Random) -> Example:
        """`sound` (1, 32768) in [-1, 1] at 16 kHz, `caption`, `label` (the program, 0..127), and `pitch`: the MIDI
        number of a single note that is heard as such, otherwise None."""
        record = self._records[index]
        step = draw.choice(self.shifts(index))
        pitch = record["pitch"] + step if record["kind"] == "note" and record["clear"] else None
        said = caption(heard(record, step), draw)
        sound = _heard(self._places[index], step)[None].float() / 32768
        return {"sound": sound, "caption": said, "label": record["program"], "pitch": pitch}

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: 16 of each clip, which use every wording, name and note. `label`: all programs.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return sorted({record["program"] for record in self._records})
        if field != "caption":
            raise ConfigError(f"audio.instruments lists the values of 'caption' and 'label', not of '{field}'")
        return list(dict.fromkeys(said for index in range(len(self)) for said in self._captions(index)))

    def weight(self, index: int) -> float:
        """Every program with a pitch alike, whatever the number of its clips; each kind with its share."""
        record = self._records[index]
        count = self._counts[record["program"], record["kind"]]
        return 20 * (0.5 if record["pitch"] is None else SHARES[record["kind"]]) / count

    def records(self) -> Sequence[Record]:
        """What is known of each clip; see `lumina_audio.instruments_pack.records`."""
        return self._records

    def shifts(self, index: int) -> Sequence[int]:
        """By how many semitones a clip may be shifted: never onto a note of its program that is held out."""
        record, most = self._records[index], self.config.shift
        steps = range(-most, most + 1)
        if record["kind"] != "note" or record["pitch"] is None or record["split"] == "held_out":
            return steps
        return [step for step in steps if record["pitch"] + step not in self._kept_out[record["program"]]]

    def exam(self) -> InstrumentsExam:
        """All clips, those held out too, asked for by captions in wordings that were trained and that were not."""
        return InstrumentsExam()

    def _captions(self, index: int) -> list[str]:
        steps = self.shifts(index)
        return [
            caption(heard(self._records[index], steps[n % len(steps)]), random.Random(LISTED * self._places[index] + n))
            for n in range(LISTED)
        ]


def heard(record: Record, step: int = 0) -> Heard:
    """What may be said of a clip that was shifted by some semitones."""
    pitch = record["pitch"] + step if record["named"] else None
    program = instruments()[record["program"]]
    return Heard(program, record["kind"], pitch, record["loudness"], record["length"], record["phrase"])


def shifted(sound: Tensor, step: int) -> Tensor:
    """(S,) some semitones higher and as much shorter, ended by silence or cut with a fade; as long as before."""
    if not step:
        return sound
    # a ratio of small numbers, at most 0.2 cents off, keeps the filters few
    ratio = Fraction(2 ** (step / 12)).limit_denominator(100)
    moved = resampled(sound, ratio.numerator, ratio.denominator)[: len(sound)]
    if len(moved) < len(sound):
        return torch.nn.functional.pad(moved, (0, len(sound) - len(moved)))
    moved[-800:] *= torch.linspace(1, 0, 800)
    return moved


@functools.cache
def _heard(place: int, step: int) -> Tensor:
    """(S,) int16 of one record, shifted. Kept: resampling anew would take a tenth of a training step."""
    sound = torch.from_numpy(instruments_pack.sound(place).astype("float32"))
    return shifted(sound, step).round().clamp(-32768, 32767).to(torch.int16)


def _kept_out(everything: Sequence[Record]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for record in everything:
        if record["split"] == "held_out" and record["kind"] == "note" and record["pitch"] is not None:
            found[record["program"]].add(record["pitch"])
    return found
