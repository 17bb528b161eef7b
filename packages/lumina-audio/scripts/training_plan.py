"""Composes training items from clips: notes, melodies, scales and chords of 2 to 8 seconds, with captions and labels.

An item is a list of notes: each a clip with a pitch shift, a start, the seconds it is held, a gain and a release. Items
never repeat what is held out: no single note of a held-out pitch of its program, and no held-out kind of phrase.
"""

from __future__ import annotations

import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from instrument_plan import PEAKS

from lumina_audio.datasets.instruments.captions import CaptionStyle, ClipFacts, make_caption
from lumina_audio.datasets.instruments.dataset import KIND_WEIGHTS, clip_facts
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_audio.text.note_names import LETTERS, parse_note_names

SECONDS = (2.048, 4.096, 8.192, 3.072, 6.144)
"""Durations of items, by their index."""
SPREAD = {0: (0,), 1: (1, 1, 3), 2: (2, 2, 4)}
"""Indices of durations of short, longer and longest items."""
RATE, BASE_SHIFT, LONG_SHIFT, WHOLE = 16000, 3, 5, 9.0
"""Samples per second; largest pitch shifts in semitones; seconds of a clip that is played to its end."""
VOCABULARY, MAX_TOKENS, BOS_ID, NO_PITCH, NO_CLASS = 2000, 40, 1, 128, 12
MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR_DOWN = (0, 2, 3, 5, 7, 8, 10, 12, 14, 15, 17, 19, 20, 22, 24)
CHORDS = {"major": (0, 4, 7), "minor": (0, 3, 7)}
KINDS = ("rising scale", "falling scale", "arpeggio", "repeated note", "octave leap", "melody", "melody")
SHORT_KINDS = ("melody", "melody", "rising scale", "falling scale", "arpeggio")
PHRASES_PER_PROGRAM, CHORDS_PER_PROGRAM = {0: 14, 1: 50, 2: 26}, 10
REGISTERS = ("", "low", "middle", "high")
CONTENTS = ("", "note", "major chord", "minor chord", *KINDS[:6])
SYNONYMS = {
    "ascending scale": "rising scale",
    "descending scale": "falling scale",
    "leap of an octave": "octave leap",
    "tune": "melody",
}


@dataclass(frozen=True)
class Note:
    """A clip as part of an item.

    Attributes:
        source: index of the clip, those of 2.048 s first.
        shift: pitch shift in semitones.
        start, hold: seconds.
        gain: factor.
        release: seconds of the fade after `hold`; 0: none.
    """

    source: int
    shift: int
    start: float
    hold: float
    gain: float
    release: float


@dataclass(frozen=True)
class Item:
    """A training item.

    Attributes:
        length: index of `SECONDS`.
        notes: what is played.
        facts: what its captions may mention.
        weight: how often it is drawn.
        num_captions: captions that are made.
        base: index of the clip that it is, or -1.
    """

    length: int
    notes: tuple[Note, ...]
    facts: ClipFacts
    weight: float
    num_captions: int
    base: int = -1


class Planner:
    """Makes items from the records of the clips, always the same."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.base, self.long = content["base"], content["long"]
        self.chance = random.Random("plan 17")
        self.programs = instruments()
        self.held_pitches: dict[int, set[int]] = defaultdict(set)
        self.held_phrases: dict[int, set[str]] = defaultdict(set)
        for record in content["all_held"]:
            if record["kind"] == "note":
                self.held_pitches[record["program"]].add(record["pitch"])
            else:
                self.held_phrases[record["program"]].add(record["phrase"])
        flags = defaultdict(list)
        for record in self.long:
            flags[record["program"]].append(record["sustains"])
        self.sustains = {program: sum(values) >= len(values) / 2 for program, values in flags.items()}
        self.named = {r["program"]: r["named"] for r in self.base if r["kind"] == "phrase"}
        self.sources: dict[int, list[int]] = defaultdict(list)
        for index, record in enumerate(self.base):
            if record["kind"] == "note" and record["pitch"] is not None:
                self.sources[record["program"]].append(index)
        self.long_sources: dict[int, list[int]] = defaultdict(list)
        for index, record in enumerate(self.long):
            self.long_sources[record["program"]].append(len(self.base) + index)
        self.pitched = [p.program for p in self.programs if p.register is not None and self.sources[p.program]]

    def items(self) -> list[Item]:
        """Make all items."""
        return [*self._clips(), *self._long_notes(), *self._longer_clips(), *self._phrases(), *self._chords()]

    def _clips(self) -> list[Item]:
        """Make items of the clips as they are, and a semitone up and down."""
        count = Counter((record["program"], record["kind"]) for record in self.base)
        items = []
        for index, record in enumerate(self.base):
            shifts = [shift for shift in (-1, 0, 1) if self._may_be_note(record, shift)]
            share = 0.5 if record["pitch"] is None else KIND_WEIGHTS[record["kind"]]
            weight = 20 * share / count[record["program"], record["kind"]] / len(shifts)
            for shift in shifts:
                note = Note(index, shift, 0.0, WHOLE, 1.0, 0.0)
                items.append(Item(0, (note,), clip_facts(record, shift), weight, 9, index))
        return items

    def _may_be_note(self, record: Mapping[str, Any], shift: int) -> bool:
        if record["kind"] != "note" or record["pitch"] is None:
            return True
        return record["pitch"] + shift not in self.held_pitches[record["program"]]

    def _long_notes(self) -> list[Item]:
        items = []
        for index, record in enumerate(self.long):
            program = record["program"]
            heard = record["heard"]
            named = heard is not None and abs((heard - record["pitch"] + 6) % 12 - 6) <= 0.5
            for size in (1, 2) if record["sustains"] else (1,):
                for shift in range(-4, 5):
                    pitch = record["pitch"] + shift
                    if pitch in self.held_pitches[program] or (size == 2 and shift % 2):
                        continue
                    length = self.chance.choice(SPREAD[size])
                    hold = SECONDS[length] - self.chance.uniform(0.15, 0.5)
                    facts = ClipFacts(
                        self.programs[program],
                        "note",
                        pitch if named else None,
                        record["loudness"],
                        "long" if record["sustains"] else None,
                        None,
                    )
                    note = Note(len(self.base) + index, shift, 0.0, hold, 1.0, 0.12)
                    items.append(Item(length, (note,), facts, 1.0, 5))
        return items

    def _longer_clips(self) -> list[Item]:
        """Make items of noises that go on, and of notes that end by themselves."""
        items = []
        for index, record in enumerate(self.base):
            if record["kind"] != "note":
                continue
            if record["pitch"] is None:
                goes_on = record["seconds"] > 1.9
                for length in range(1, len(SECONDS)):
                    hold, release = (SECONDS[length] - 0.1, 0.1) if goes_on else (WHOLE, 0.0)
                    note = Note(index, 0, 0.0, hold, 1.0, release)
                    items.append(Item(length, (note,), clip_facts(record), 1.0, 4))
                continue
            is_short = record["length"] == "short"
            if self.sustains.get(record["program"]) and not is_short:
                continue
            for shift in (-1, 0, 1):
                if not self._may_be_note(record, shift) or self.chance.random() < 0.4:
                    continue
                facts = replace(clip_facts(record, shift), length="short" if is_short else None)
                note = Note(index, shift, 0.0, WHOLE, 1.0, 0.0)
                length = self.chance.choice((1, 3))
                items.append(Item(length, (note,), facts, 0.3 if is_short else 0.5, 4))
        return items

    def _phrases(self) -> list[Item]:
        items = []
        for size, count in PHRASES_PER_PROGRAM.items():
            for program in self.pitched:
                for n in range(count):
                    kind = KINDS[n % len(KINDS)] if size else self.chance.choice(SHORT_KINDS)
                    if kind in self.held_phrases[program]:
                        continue
                    loudness = self.chance.choice(list(PEAKS))
                    length = self.chance.choice(SPREAD[size])
                    composed = self._compose(program, kind, size, loudness, length)
                    if composed is None:
                        continue
                    first, notes = composed
                    pitch = first if self.named.get(program) else None
                    facts = ClipFacts(self.programs[program], "phrase", pitch, loudness, None, kind)
                    items.append(Item(length, notes, facts, 1.0 if size else 0.4, 5))
        return items

    def _compose(
        self, program: int, kind: str, size: int, loudness: str, length: int
    ) -> tuple[int, tuple[Note, ...]] | None:
        """Compose a phrase that fills its duration, where clips for all of its notes exist."""
        low, high = self.programs[program].register or (0, 0)
        for _ in range(30):
            steps, beats = self._steps(kind, size)
            if high - low < max(steps) - min(steps):
                continue
            first = self.chance.randint(low - min(steps), high - max(steps))
            unit = (SECONDS[length] - self.chance.uniform(0.15, 0.45)) / sum(beats)
            if unit > 1.9:
                continue
            notes, start = [], 0.0
            for step, beat in zip(steps, beats, strict=True):
                hold = 0.92 * unit * beat
                source = self._source(program, first + step, loudness, hold)
                if source is None:
                    break
                notes.append(Note(*source[:2], start, hold, source[2], 0.05 if self.sustains.get(program) else 0.12))
                start += unit * beat
            if len(notes) == len(steps):
                return first, tuple(notes)
        return None

    def _steps(self, kind: str, size: int) -> tuple[list[int], list[int]]:
        """Choose semitones above the first note, and beats."""
        chance = self.chance
        if kind in ("rising scale", "falling scale"):
            count = chance.choice([[5], [5, 8], [8, 8, 15]][size])
            steps = [_degree(k) for k in range(count)]
            steps = steps if kind == "rising scale" else [-step for step in MINOR_DOWN[:count]]
        elif kind == "arpeggio":
            there_and_back, two_octaves = [0, 4, 7, 12, 7, 4, 0], [0, 4, 7, 12, 16, 19, 24]
            twice = [0, 4, 7, 12] * 2
            options = [[[0, 4, 7, 12]], [[0, 4, 7, 12], there_and_back], [there_and_back, two_octaves, twice]]
            steps = chance.choice(options[size])
        elif kind == "repeated note":
            steps = [0] * (chance.randint(4, 6) if size < 2 else chance.randint(6, 10))
        elif kind == "octave leap":
            steps = [0, 12] if size == 0 or chance.random() < 0.5 else [0, 12] * 2
        else:
            low, high = ((4, 6), (5, 9), (9, 15))[size]
            degree, steps = 0, [0]
            for _ in range(chance.randint(low, high) - 1):
                degree = max(-5, min(9, degree + chance.choice([-2, -1, -1, 1, 1, 2, 2, -3, 4])))
                steps.append(_degree(degree))
            return steps, [chance.choice([1, 1, 1, 2]) for _ in steps]
        return steps, [1] * len(steps)

    def _chords(self) -> list[Item]:
        items = []
        for program in self.pitched:
            sustains = self.sustains.get(program, False)
            low, high = self.programs[program].register or (0, 0)
            for n in range(CHORDS_PER_PROGRAM):
                size = 1 if n % 3 else 2
                kind, loudness = self.chance.choice(list(CHORDS)), self.chance.choice(list(PEAKS))
                length = self.chance.choice(SPREAD[size])
                if kind in self.held_phrases[program] or (size == 2 and not sustains):
                    continue
                for _ in range(40):
                    root = self.chance.randint(low, max(low, high - 12))
                    hold = SECONDS[length] - self.chance.uniform(0.15, 0.5)
                    sources = [self._source(program, root + t, loudness, hold, sustains) for t in CHORDS[kind]]
                    found = [source for source in sources if source is not None]
                    if len(found) == len(sources):
                        pitch = root if self.named.get(program) else None
                        facts = ClipFacts(
                            self.programs[program], "chord", pitch, loudness, "long" if sustains else None, kind
                        )
                        notes = tuple(Note(*source[:2], 0.0, hold, source[2], 0.12) for source in found)
                        items.append(Item(length, notes, facts, 1.0, 5))
                        break
        return items

    def _source(
        self, program: int, pitch: int, loudness: str, hold: float, only_long: bool = False
    ) -> tuple[int, int, float] | None:
        """Find the nearest clip that sounds long enough: its index, pitch shift and gain."""
        best: tuple[float, int, int, float] | None = None
        for index in [*(() if only_long else self.sources[program]), *self.long_sources[program]]:
            is_base = index < len(self.base)
            record = self.base[index] if is_base else self.long[index - len(self.base)]
            shift = pitch - record["pitch"]
            if abs(shift) > (BASE_SHIFT if is_base else LONG_SHIFT) or (is_base and self._ends_early(record, hold)):
                continue
            cost = abs(shift) + 0.6 * (record["loudness"] != loudness) + 0.8 * self.chance.random()
            if best is None or cost < best[0]:
                best = (cost, index, shift, PEAKS[loudness] / PEAKS[record["loudness"]])
        return None if best is None else best[1:]

    def _ends_early(self, record: Mapping[str, Any], hold: float) -> bool:
        seconds: float = record["seconds"]
        if self.sustains.get(record["program"]):
            return seconds < hold - 0.05
        return record["length"] == "short" and hold > 0.35 and seconds < min(hold, 1.0)


def write_plan(content: Mapping[str, Any], out: Path) -> str:
    """Write plan.npz and vocabulary.model to a folder, and return their counts."""
    planner = Planner(content)
    items = planner.items()
    captions: list[str] = []
    owners, labels = [], []
    style = CaptionStyle(describe_prob=0.9, note_name_prob=0.75)
    for index, item in enumerate(items):
        texts = dict.fromkeys(make_caption(item.facts, planner.chance, style) for _ in range(item.num_captions))
        captions += texts
        owners += [index] * len(texts)
        labels += [label(text, item.facts) for text in texts]
    tokenizer = fit_vocabulary(captions, out / "vocabulary.model")
    rows = [[BOS_ID, *tokenizer.encode(text)][:MAX_TOKENS] for text in captions]
    notes = [note for item in items for note in item.notes]
    np.savez_compressed(
        out / "plan.npz",
        ids=np.array([token for row in rows for token in row], np.uint16),
        lens=np.array([len(row) for row in rows], np.uint8),
        cap_item=np.array(owners, np.uint32),
        labels=np.array(labels, np.uint8),
        item_len=np.array([item.length for item in items], np.uint8),
        item_weight=np.array([item.weight for item in items], np.float32),
        item_base=np.array([item.base for item in items], np.int16),
        item_peak=np.array([PEAKS[item.facts.loudness] for item in items], np.float16),
        nn=np.array([len(item.notes) for item in items], np.uint8),
        src=np.array([note.source for note in notes], np.uint16),
        shift=np.array([note.shift for note in notes], np.int8),
        start=np.array([round(note.start * RATE) for note in notes], np.uint32),
        hold=np.array([round(note.hold * RATE) for note in notes], np.uint32),
        gain=np.array([note.gain for note in notes], np.float16),
        rel=np.array([note.release for note in notes], np.float16),
    )
    return f"{len(items)} items, {len(notes)} notes, {len(captions)} captions, {tokenizer.get_piece_size()} tokens"


def fit_vocabulary(captions: Sequence[str], path: Path) -> sentencepiece.SentencePieceProcessor:
    """Learn subword tokens from captions as `core.text` does."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(dict.fromkeys(captions)), model_writer=model, vocab_size=VOCABULARY,
        hard_vocab_limit=False, byte_fallback=True, character_coverage=0.9999, normalization_rule_name="nmt_nfkc_cf",
        num_threads=1, pad_id=0, bos_id=BOS_ID, eos_id=2, unk_id=3, minloglevel=2, max_sentence_length=4096,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def label(text: str, facts: ClipFacts) -> tuple[int, ...]:
    """Return what a caption tells: program, pitch, pitch class, register, content, loudness and length."""
    lower = text.lower()
    names = parse_note_names(text)
    for synonym, usual in SYNONYMS.items():
        lower = lower.replace(synonym, usual)
    register = max((n for n in (1, 2, 3) if re.search(rf"\b{REGISTERS[n]} note\b", lower)), default=0)
    content = max((n for n in range(2, len(CONTENTS)) if CONTENTS[n] in lower), default=0)
    if not content and (names or " note" in lower):
        content = 1
    loudness = 2 if re.search(r"\bloud\b", lower) else 1 if re.search(r"\b(soft|quiet)\b", lower) else 0
    length = 1 if re.search(r"\bshort\b", lower) else 2 if re.search(r"\blong\b", lower) else 0
    pitch = names[0] if names else NO_PITCH
    return facts.instrument.program, pitch, _pitch_class(text, names), register, content, loudness, length


def _pitch_class(text: str, names: Sequence[int]) -> int:
    if names:
        return names[0] % 12
    root = re.search(r"\b([A-G])(#|b| sharp| flat)?(?:-?\d)? (?:major|minor) chord", text)
    if root is None:
        return NO_CLASS
    sign = {None: 0, "#": 1, " sharp": 1, "b": -1, " flat": -1}[root.group(2)]
    return (LETTERS[root.group(1)] + sign) % 12


def _degree(degree: int) -> int:
    return 12 * (degree // 7) + MAJOR[degree % 7]
