"""What models of the instruments are judged by: clips held out of training, asked for in old and new wordings."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lumina_audio.datasets.instruments import data
from lumina_audio.datasets.instruments.captions import CaptionStyle, ClipFacts, make_caption
from lumina_audio.datasets.instruments.data import Record
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_core.protocols import EvalSet

SPLIT_FILTERS: dict[str, Callable[[Record], bool]] = {
    "held_out": lambda record: record["split"] == "held_out",
    "pitches": lambda record: record["split"] == "held_out" and record["kind"] == "note",
    "phrases": lambda record: record["split"] == "held_out" and record["kind"] != "note",
    "trained": lambda record: record["split"] == "train",
    "all": lambda record: True,
}


class InstrumentsEvalSet(EvalSet):
    """Every clip of the pack. `held_out` asks for those kept out of training: `pitches` and `phrases` together.

    Every second one is asked for in a wording that training never uses. Captions are drawn once for all, by the place
    of the clip. A clip's family is called by the name of its instrument.
    """

    def __init__(self) -> None:
        self.splits = tuple(SPLIT_FILTERS)
        self._records = data.records()
        self.families: Sequence[str] = [record["name"] for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def reference(self, index: int) -> Tensor:
        """(1, 32768) in [-1, 1], at 16 kHz."""
        return torch.from_numpy(data.clip(index).astype("float32"))[None] / 32768

    def indices(self, split: str) -> Sequence[int]:
        """In the order of the pack."""
        return [index for index, record in enumerate(self._records) if SPLIT_FILTERS[split](record)]

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """`caption`, which names the instrument and, of a single note that is clearly heard, the pitch; `label`, the
        program; `pitch`: the MIDI number where the caption names it, otherwise None."""
        record = self._records[index]
        pitch_is_named = record["kind"] == "note" and record["clear"]
        pitch = record["pitch"] if pitch_is_named or (record["kind"] != "note" and record["named"]) else None
        facts = ClipFacts(
            instruments()[record["program"]], record["kind"], pitch, record["loudness"], record["length"],
            record["phrase"],
        )  # fmt: skip
        style = CaptionStyle(
            held_out=self._uses_held_out_wording(index), describe_prob=1, note_name_prob=1, default_name_prob=0.7
        )
        text = make_caption(facts, random.Random(f"exam {index}"), style)
        return {"caption": text, "label": record["program"], "pitch": record["pitch"] if pitch_is_named else None}

    def groups(self, index: int) -> Mapping[str, str]:
        """`kind` (note, chord, phrase), `family` as General MIDI has them, `wording` (trained, new)."""
        record = self._records[index]
        wording = "new" if self._uses_held_out_wording(index) else "trained"
        return {"kind": record["kind"], "family": record["family"], "wording": wording}

    def digest(self) -> str:
        """Of all samples, as they are decoded here."""
        return _audio_digest()

    def _uses_held_out_wording(self, index: int) -> bool:
        # by the place among the held-out ones of a program, so that either half holds every program
        return hashlib.sha256(f"wording {index}".encode()).digest()[0] % 2 == 0


@functools.lru_cache(maxsize=1)
def _audio_digest() -> str:
    hasher = hashlib.sha256()
    for index in range(len(data.records())):
        hasher.update(data.clip(index).tobytes())
    return hasher.hexdigest()
