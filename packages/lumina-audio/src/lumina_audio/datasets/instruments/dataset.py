"""Built-in data set and evaluation set: General MIDI instruments with captions."""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.audio_io import resample
from lumina_audio.datasets.instruments import data
from lumina_audio.datasets.instruments.captions import CaptionStyle, ClipFacts, make_caption
from lumina_audio.datasets.instruments.data import Record
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalSet, Example

KIND_WEIGHTS = {"note": 0.62, "chord": 0.13, "phrase": 0.25}
"""Share of each kind of clip in a program; drums and noises have one kind, with half the weight of a program."""
LISTED_CAPTIONS = 16
"""Captions of each clip in `values`."""


class InstrumentsDataset(Dataset):
    """Clips of two seconds, each time with another caption and pitch shift."""

    class Config(Settings):
        """Split and pitch shift."""

        split: Literal["train", "held_out", "all"] = Field("train", description="clips of the split")
        pitch_shift_semitones: int = Field(1, ge=0, le=4, description="largest random pitch shift, in semitones")

    def __init__(self, config: Config) -> None:
        self.config = config
        all_records = data.records()
        self._indices = [n for n, record in enumerate(all_records) if config.split in ("all", record["split"])]
        self._records = [all_records[index] for index in self._indices]
        self._counts = Counter((record["program"], record["kind"]) for record in self._records)
        self._held_out_pitches: dict[int, set[int]] = defaultdict(set)
        for record in all_records:
            if record["split"] == "held_out" and record["kind"] == "note" and record["pitch"] is not None:
                self._held_out_pitches[record["program"]].add(record["pitch"])

    def __len__(self) -> int:
        return len(self._records)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `audio` (1, 32768) in [-1, 1] at 16 kHz, `caption`, `label` (program) and `pitch`.

        The pitch is the MIDI number of a single note with a recognizable pitch, otherwise None.
        """
        record = self._records[index]
        semitones = rng.choice(self.pitch_shifts(index))
        pitch = record["pitch"] + semitones if record["kind"] == "note" and record["clear"] else None
        text = make_caption(clip_facts(record, semitones), rng)
        audio = _shifted_clip(self._indices[index], semitones)[None].float() / 32768
        return {"audio": audio, "caption": text, "label": record["program"], "pitch": pitch}

    def values(self, field: str) -> Sequence[Any]:
        """Return 16 captions of each clip for `caption`, or all programs for `label`.

        Raises:
            ConfigError: the field is another one.
        """
        if field == "label":
            return sorted({record["program"] for record in self._records})
        if field != "caption":
            raise ConfigError(f"values of audio.instruments: got the field '{field}', expected caption or label")
        return list(dict.fromkeys(text for index in range(len(self)) for text in self._captions(index)))

    def weight(self, index: int) -> float:
        """Return the weight of a clip: all pitched programs are equally frequent, and kinds have `KIND_WEIGHTS`."""
        record = self._records[index]
        count = self._counts[record["program"], record["kind"]]
        return 20 * (0.5 if record["pitch"] is None else KIND_WEIGHTS[record["kind"]]) / count

    def records(self) -> Sequence[Record]:
        """Return the record of each clip; see `lumina_audio.datasets.instruments.data.records`."""
        return self._records

    def pitch_shifts(self, index: int) -> Sequence[int]:
        """Return the valid pitch shifts of a clip in semitones: none leads to a held-out note of its program."""
        record, max_shift = self._records[index], self.config.pitch_shift_semitones
        shifts = range(-max_shift, max_shift + 1)
        if record["kind"] != "note" or record["pitch"] is None or record["split"] == "held_out":
            return shifts
        return [shift for shift in shifts if record["pitch"] + shift not in self._held_out_pitches[record["program"]]]

    def eval_set(self) -> InstrumentsEvalSet:
        """Return the evaluation set of all clips."""
        return InstrumentsEvalSet()

    def _captions(self, index: int) -> list[str]:
        shifts, record = self.pitch_shifts(index), self._records[index]
        first_seed = LISTED_CAPTIONS * self._indices[index]
        return [
            make_caption(clip_facts(record, shifts[n % len(shifts)]), random.Random(first_seed + n))
            for n in range(LISTED_CAPTIONS)
        ]


class InstrumentsEvalSet(EvalSet):
    """All clips, with one fixed caption each; about half of the captions have wordings that training never uses.

    The split `held_out` has the clips that training never uses: `pitches` and `phrases` together. The family of a clip
    is its instrument.
    """

    splits = ("held_out", "pitches", "phrases", "trained", "all")

    def __init__(self) -> None:
        self._records = data.records()
        self.families = [record["name"] for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def reference(self, index: int) -> Tensor:
        """Return the clip (1, 32768) in [-1, 1] at 16 kHz."""
        return torch.from_numpy(data.clip(index).astype("float32"))[None] / 32768

    def indices(self, split: str) -> Sequence[int]:
        """Return the clips of a split."""
        return [index for index, record in enumerate(self._records) if split in _splits_of(record)]

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return `caption`, `label` (program) and `pitch` (MIDI number if the caption must name it, otherwise None)."""
        record = self._records[index]
        is_clear_note = record["kind"] == "note" and record["clear"]
        named = is_clear_note or (record["kind"] != "note" and record["named"])
        style = CaptionStyle(
            held_out=self._has_held_out_wording(index), describe_prob=1, note_name_prob=1, default_name_prob=0.7
        )
        # the seed contains the name that was used when the published scores were measured
        text = make_caption(clip_facts({**record, "named": named}), random.Random(f"exam {index}"), style)
        return {"caption": text, "label": record["program"], "pitch": record["pitch"] if is_clear_note else None}

    def groups(self, index: int) -> Mapping[str, str]:
        """Return `kind` (note, chord, phrase), `family` of General MIDI, `wording` (trained, new), and `octave`.

        The octave is that of the pitch that the caption names, 4 from C4 to B4; other clips have none.
        """
        record, pitch = self._records[index], self.fields(index, None)["pitch"]
        wording = "new" if self._has_held_out_wording(index) else "trained"
        groups = {"kind": record["kind"], "family": record["family"], "wording": wording}
        return groups if pitch is None else {**groups, "octave": str(pitch // 12 - 1)}

    def _has_held_out_wording(self, index: int) -> bool:
        # by a hash, so that both halves have clips of every program
        return hashlib.sha256(f"wording {index}".encode()).digest()[0] % 2 == 0


def clip_facts(record: Record, semitones: int = 0) -> ClipFacts:
    """Return the attributes that a caption of a clip with a pitch shift may mention."""
    pitch = record["pitch"] + semitones if record["named"] else None
    program = instruments()[record["program"]]
    return ClipFacts(program, record["kind"], pitch, record["loudness"], record["length"], record["phrase"])


def pitch_shift(waveform: Tensor, semitones: int) -> Tensor:
    """Shift the pitch of a waveform (S,) by resampling; the result is padded, or cut with a fade, to S samples."""
    if not semitones:
        return waveform
    # a ratio of small integers, with an error of at most 0.2 cents, keeps the filters small
    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(100)
    result = resample(waveform, ratio.numerator, ratio.denominator)[: len(waveform)]
    if len(result) < len(waveform):
        return F.pad(result, (0, len(waveform) - len(result)))
    result[-800:] *= torch.linspace(1, 0, 800)
    return result


@functools.cache
def _shifted_clip(index: int, semitones: int) -> Tensor:
    """Return the clip (S,) of a record with a pitch shift, int16. Cached: resampling is a tenth of a training step."""
    waveform = torch.from_numpy(data.clip(index).astype("float32"))
    return pitch_shift(waveform, semitones).round().clamp(-32768, 32767).to(torch.int16)


def _splits_of(record: Record) -> tuple[str, ...]:
    if record["split"] == "train":
        return "trained", "all"
    return "held_out", "pitches" if record["kind"] == "note" else "phrases", "all"
