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

from lumina_audio.audio_io import resample
from lumina_audio.datasets.instruments import data
from lumina_audio.datasets.instruments.captions import ClipFacts, make_caption
from lumina_audio.datasets.instruments.data import Record
from lumina_audio.datasets.instruments.eval_set import InstrumentsEvalSet
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, Example

KIND_WEIGHTS = {"note": 0.62, "chord": 0.13, "phrase": 0.25}
"""How often each kind is drawn of a program; drums and noises have but one kind, and half the weight."""
LISTED_CAPTIONS = 16
"""Captions of a clip among the listed values."""


class InstrumentsDataset(Dataset):
    """Two seconds of an instrument, each time with another true caption, and a little higher or lower."""

    class Config(Settings):
        """Which clips, how much they are shifted."""

        split: Literal["train", "held_out", "all"] = Field("train", description="`train` is without those held out")
        pitch_shift_semitones: int = Field(
            1, ge=0, le=4, description="largest shift of pitch in semitones, by resampling"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        all_records = data.records()
        self._indices = [n for n, record in enumerate(all_records) if config.split in ("all", record["split"])]
        self._records = [all_records[index] for index in self._indices]
        self._held_out_pitches = _held_out_pitches(all_records)
        self._counts = Counter((record["program"], record["kind"]) for record in self._records)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, index: int, rng: random.Random) -> Example:
        """`audio` (1, 32768) in [-1, 1] at 16 kHz, `caption`, `label` (the program, 0..127), and `pitch`: the MIDI
        number of a single note that is heard as such, otherwise None."""
        record = self._records[index]
        semitones = rng.choice(self.pitch_shifts(index))
        pitch = record["pitch"] + semitones if record["kind"] == "note" and record["clear"] else None
        text = make_caption(clip_facts(record, semitones), rng)
        audio = _shifted_clip(self._indices[index], semitones)[None].float() / 32768
        return {"audio": audio, "caption": text, "label": record["program"], "pitch": pitch}

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: 16 of each clip, which use every wording, name and note. `label`: all programs.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return sorted({record["program"] for record in self._records})
        if field != "caption":
            raise ConfigError(f"audio.instruments lists the values of 'caption' and 'label', not of '{field}'")
        return list(dict.fromkeys(text for index in range(len(self)) for text in self._captions(index)))

    def weight(self, index: int) -> float:
        """Every program with a pitch alike, whatever the number of its clips; each kind with its share."""
        record = self._records[index]
        count = self._counts[record["program"], record["kind"]]
        return 20 * (0.5 if record["pitch"] is None else KIND_WEIGHTS[record["kind"]]) / count

    def records(self) -> Sequence[Record]:
        """What is known of each clip; see `lumina_audio.datasets.instruments.data.records`."""
        return self._records

    def pitch_shifts(self, index: int) -> Sequence[int]:
        """By how many semitones a clip may be shifted: never onto a note of its program that is held out."""
        record, max_shift = self._records[index], self.config.pitch_shift_semitones
        shifts = range(-max_shift, max_shift + 1)
        if record["kind"] != "note" or record["pitch"] is None or record["split"] == "held_out":
            return shifts
        return [shift for shift in shifts if record["pitch"] + shift not in self._held_out_pitches[record["program"]]]

    def eval_set(self) -> InstrumentsEvalSet:
        """All clips, those held out too, asked for by captions in wordings that were trained and that were not."""
        return InstrumentsEvalSet()

    def _captions(self, index: int) -> list[str]:
        shifts = self.pitch_shifts(index)
        return [
            make_caption(
                clip_facts(self._records[index], shifts[n % len(shifts)]),
                random.Random(LISTED_CAPTIONS * self._indices[index] + n),
            )
            for n in range(LISTED_CAPTIONS)
        ]


def clip_facts(record: Record, semitones: int = 0) -> ClipFacts:
    """What may be said of a clip that was shifted by some semitones."""
    pitch = record["pitch"] + semitones if record["named"] else None
    program = instruments()[record["program"]]
    return ClipFacts(program, record["kind"], pitch, record["loudness"], record["length"], record["phrase"])


def pitch_shift(waveform: Tensor, semitones: int) -> Tensor:
    """(S,) some semitones higher and as much shorter, ended by silence or cut with a fade; as long as before."""
    if not semitones:
        return waveform
    # a ratio of small numbers, at most 0.2 cents off, keeps the filters few
    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(100)
    result = resample(waveform, ratio.numerator, ratio.denominator)[: len(waveform)]
    if len(result) < len(waveform):
        return torch.nn.functional.pad(result, (0, len(waveform) - len(result)))
    result[-800:] *= torch.linspace(1, 0, 800)
    return result


@functools.cache
def _shifted_clip(index: int, semitones: int) -> Tensor:
    """(S,) int16 of one record, shifted. Kept: resampling anew would take a tenth of a training step."""
    waveform = torch.from_numpy(data.clip(index).astype("float32"))
    return pitch_shift(waveform, semitones).round().clamp(-32768, 32767).to(torch.int16)


def _held_out_pitches(all_records: Sequence[Record]) -> dict[int, set[int]]:
    pitches: dict[int, set[int]] = defaultdict(set)
    for record in all_records:
        if record["split"] == "held_out" and record["kind"] == "note" and record["pitch"] is not None:
            pitches[record["program"]].add(record["pitch"])
    return pitches
