"""The built-in instruments: whole, honestly split, and told truly."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import torch

from lumina_audio.datasets.instruments import data
from lumina_audio.datasets.instruments.captions import CaptionStyle, ClipFacts, make_caption, note_name
from lumina_audio.datasets.instruments.dataset import InstrumentsDataset, pitch_shift
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_core.errors import ConfigError

VIOLIN, OBOE, BELLS, GUNSHOT = (instruments()[program] for program in (40, 68, 14, 127))


def dataset(**options: object) -> InstrumentsDataset:
    return InstrumentsDataset(InstrumentsDataset.Config.read(options, "test"))


def find(data: InstrumentsDataset, **wanted: object) -> int:
    return next(n for n, record in enumerate(data.records()) if all(record[key] == wanted[key] for key in wanted))


def loudest_frequency(sound: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(sound * torch.hann_window(len(sound), periodic=False)).abs()
    return float(spectrum.argmax()) * 16000 / len(sound)


def test_the_pack_is_what_its_card_says_byte_for_byte():
    folder = files("lumina_audio") / "data" / "instruments"
    card = (folder / "card.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\d+) \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.name for path in folder.iterdir()} - {"card.md"}
    for name, size, digest in rows:
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(size), digest)
    assert sum(int(size) for _, size, _ in rows) <= 16_000_000


def test_all_128_programs_are_there_under_names_of_their_own():
    records = data.records()
    assert {record["program"] for record in records} == set(range(128))
    names = [name.text for instrument in instruments() for name in instrument.names]
    assert len(names) == len(set(names))
    assert {record["family"] for record in records} == {instrument.family for instrument in instruments()}


@pytest.mark.parametrize(("loudness", "peak"), [("soft", 0.35), ("medium", 0.6), ("loud", 0.95)])
def test_a_clip_is_as_loud_as_it_is_called(loudness, peak):
    data = dataset(split="all", pitch_shift_semitones=0)
    for program in (0, 40, 56, 73):
        sound = data.get(find(data, program=program, loudness=loudness), random.Random(0))["audio"]
        assert float(sound.abs().max()) == pytest.approx(peak, rel=0.15)


def test_a_flute_that_is_called_a_pitch_sounds_at_that_pitch():
    data = dataset(split="all", pitch_shift_semitones=0)
    for index, record in enumerate(data.records()):
        if record["program"] == 73 and record["kind"] == "note":
            heard = loudest_frequency(data.get(index, random.Random(0))["audio"][0])
            written = 440 * 2 ** ((record["pitch"] - 69) / 12)
            assert min(abs(12 * np.log2(heard / (written * part))) for part in (1, 2, 3)) < 0.5


def test_a_shift_by_a_semitone_moves_every_frequency_by_it_and_keeps_the_length():
    tone = torch.sin(2 * torch.pi * 880 * torch.arange(32768) / 16000)
    for step in (-1, 1):
        moved = pitch_shift(tone, step)
        assert moved.shape == tone.shape
        assert loudest_frequency(moved[8192:24576]) == pytest.approx(880 * 2 ** (step / 12), abs=1.5)


def test_what_is_held_out_cannot_be_reached_from_training_by_a_shift():
    held_out = {(r["program"], r["pitch"]) for r in dataset(split="held_out").records() if r["kind"] == "note"}
    phrases = {(r["program"], r["phrase"]) for r in dataset(split="held_out").records() if r["phrase"]}
    train = dataset(pitch_shift_semitones=4)
    for index, record in enumerate(train.records()):
        if record["kind"] == "note" and record["pitch"] is not None:
            assert train.pitch_shifts(index)
            assert not {(record["program"], record["pitch"] + step) for step in train.pitch_shifts(index)} & held_out
        assert (record["program"], record["phrase"]) not in phrases
    assert len(held_out) >= 220
    assert len(phrases) >= 110


def test_every_program_is_drawn_alike_and_every_kind_with_its_share():
    data = dataset()
    weights = [data.weight(index) for index in range(len(data))]
    totals, kinds = Counter(), Counter()
    for weight, record in zip(weights, data.records(), strict=True):
        totals[record["program"]] += weight
        kinds[record["kind"]] += weight
    assert totals[0] == pytest.approx(totals[73])
    assert totals[127] == pytest.approx(totals[0] / 2)
    assert kinds["note"] / sum(weights) == pytest.approx(0.64, abs=0.02)


def test_no_training_caption_is_in_a_wording_that_was_held_out():
    said = {make_caption(ClipFacts(OBOE, "note", 69, "loud", "long", None), random.Random(n)) for n in range(3000)}
    held = {
        make_caption(ClipFacts(OBOE, "note", 69, "loud", "long", None), random.Random(n), CaptionStyle(held_out=True))
        for n in range(3000)
    }
    assert len(said) > 100
    assert len(held) > 50
    assert not said & held


def test_captions_say_only_what_is_true():
    for n in range(500):
        said = make_caption(ClipFacts(VIOLIN, "note", 81, "soft", "short", None), random.Random(n))
        assert "violin" in said
        assert not re.search(r"\b(loud|long|low|middle|chord|scale)\b", said)
        assert all(name == "A5" for name in re.findall(r"\b[A-G](?:#|b| sharp| flat)? ?\d\b", said)), said
        unnamed = make_caption(ClipFacts(VIOLIN, "note", None, "medium", None, None), random.Random(n))
        assert not re.search(r"\d|low|middle|high|soft|loud|short|long", unnamed), unnamed
        assert "note" not in make_caption(ClipFacts(GUNSHOT, "note", None, "loud", "short", None), random.Random(n))


def test_articles_follow_what_is_spoken():
    said = " | ".join(
        make_caption(ClipFacts(program, "note", pitch, "soft", None, None), random.Random(n))
        for program in (VIOLIN, OBOE, BELLS) for pitch in (57, 60, 64, 65) for n in range(300)
    )  # fmt: skip
    assert not re.search(r"\ba (A|E|F|oboe|E\d)", said)
    assert not re.search(r"\ban (B|C|D|G|violin|soft)", said)
    assert "an F4" in said
    assert "an oboe plays" in said
    assert "tubular bells play " in said
    assert "a tubular bells" not in said


def test_notes_are_called_by_sharps_and_by_flats():
    assert {note_name(73, random.Random(n)) for n in range(100)} == {"C#5", "Db5", "C sharp 5", "D flat 5"}
    assert {note_name(60, random.Random(n)) for n in range(100)} == {"C4"}


def test_an_example_names_its_pitch_as_shifted():
    data = dataset(pitch_shift_semitones=1)
    index = find(data, program=73, kind="note", clear=True)
    pitches = {data.get(index, random.Random(n))["pitch"] - data.records()[index]["pitch"] for n in range(40)}
    assert pitches == {-1, 0, 1}
    chord = data.get(find(data, kind="chord"), random.Random(0))
    assert chord["pitch"] is None
    assert (chord["audio"].shape, chord["audio"].dtype) == ((1, 32768), torch.float32)


def test_the_listed_captions_are_many_and_few_enough_to_learn_from():
    listed = dataset().values("caption")
    assert 20_000 < len(listed) < 60_000
    with pytest.raises(ConfigError, match="not of 'sound'"):
        dataset().values("sound")


def test_the_exam_asks_for_what_training_never_met_and_names_the_pitch_it_judges():
    exam = dataset().eval_set()
    asked = [exam.fields(place, None) for place in exam.indices("held_out")]
    assert len(asked) >= 300
    assert sum(said["pitch"] is not None for said in asked) >= 200
    wordings = Counter(exam.groups(place)["wording"] for place in exam.indices("held_out"))
    assert min(wordings.values()) > 0.4 * len(asked)
    for place, said in zip(exam.indices("held_out"), asked, strict=True):
        assert exam.fields(place, None) == said
        record = data.records()[place]
        assert any(name.text in said["caption"] for name in instruments()[record["program"]].names)
        assert said["pitch"] is None or re.search(r"\d", said["caption"])
    assert set(exam.indices("pitches")) | set(exam.indices("phrases")) == set(exam.indices("held_out"))
