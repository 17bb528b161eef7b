"""Built-in instruments: package data, splits, pitch shifts, captions, evaluation set."""

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


def find(data: InstrumentsDataset, **expected: object) -> int:
    return next(n for n, record in enumerate(data.records()) if all(record[key] == expected[key] for key in expected))


def loudest_frequency(sound: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(sound * torch.hann_window(len(sound), periodic=False)).abs()
    return float(spectrum.argmax()) * 16000 / len(sound)


def test_data_files_match_the_hashes_of_the_card():
    folder = files("lumina_audio") / "data" / "instruments"
    card = (folder / "card.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\d+) \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.name for path in folder.iterdir()} - {"card.md"}
    for name, size, digest in rows:
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(size), digest)
    assert sum(int(size) for _, size, _ in rows) <= 16_000_000


def test_128_programs_have_unique_names():
    records = data.records()
    assert {record["program"] for record in records} == set(range(128))
    names = [name.text for instrument in instruments() for name in instrument.names]
    assert len(names) == len(set(names))
    assert {record["family"] for record in records} == {instrument.family for instrument in instruments()}


@pytest.mark.parametrize(("loudness", "peak"), [("soft", 0.35), ("medium", 0.6), ("loud", 0.95)])
def test_peak_of_a_clip_matches_its_loudness_label(loudness, peak):
    data = dataset(split="all", pitch_shift_semitones=0)
    for program in (0, 40, 56, 73):
        sound = data.get(find(data, program=program, loudness=loudness), random.Random(0))["audio"]
        assert float(sound.abs().max()) == pytest.approx(peak, rel=0.15)


def test_flute_clips_have_their_labelled_pitch():
    data = dataset(split="all", pitch_shift_semitones=0)
    for index, record in enumerate(data.records()):
        if record["program"] == 73 and record["kind"] == "note":
            audible = loudest_frequency(data.get(index, random.Random(0))["audio"][0])
            written = 440 * 2 ** ((record["pitch"] - 69) / 12)
            assert min(abs(12 * np.log2(audible / (written * part))) for part in (1, 2, 3)) < 0.5


def test_pitch_shift_scales_frequencies_and_keeps_the_length():
    tone = torch.sin(2 * torch.pi * 880 * torch.arange(32768) / 16000)
    for step in (-1, 1):
        moved = pitch_shift(tone, step)
        assert moved.shape == tone.shape
        assert loudest_frequency(moved[8192:24576]) == pytest.approx(880 * 2 ** (step / 12), abs=1.5)


def test_pitch_shifts_of_training_clips_never_reach_held_out_notes():
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


def test_programs_and_kinds_have_their_weights():
    data = dataset()
    weights = [data.weight(index) for index in range(len(data))]
    totals, kinds = Counter(), Counter()
    for weight, record in zip(weights, data.records(), strict=True):
        totals[record["program"]] += weight
        kinds[record["kind"]] += weight
    assert totals[0] == pytest.approx(totals[73])
    assert totals[127] == pytest.approx(totals[0] / 2)
    assert kinds["note"] / sum(weights) == pytest.approx(0.64, abs=0.02)


def test_held_out_wordings_do_not_overlap_training_captions():
    caption = {make_caption(ClipFacts(OBOE, "note", 69, "loud", "long", None), random.Random(n)) for n in range(3000)}
    held = {
        make_caption(ClipFacts(OBOE, "note", 69, "loud", "long", None), random.Random(n), CaptionStyle(held_out=True))
        for n in range(3000)
    }
    assert len(caption) > 100
    assert len(held) > 50
    assert not caption & held


def test_captions_mention_only_known_facts():
    for n in range(500):
        caption = make_caption(ClipFacts(VIOLIN, "note", 81, "soft", "short", None), random.Random(n))
        assert "violin" in caption
        assert not re.search(r"\b(loud|long|low|middle|chord|scale)\b", caption)
        assert all(name == "A5" for name in re.findall(r"\b[A-G](?:#|b| sharp| flat)? ?\d\b", caption)), caption
        unnamed = make_caption(ClipFacts(VIOLIN, "note", None, "medium", None, None), random.Random(n))
        assert not re.search(r"\d|low|middle|high|soft|loud|short|long", unnamed), unnamed
        assert "note" not in make_caption(ClipFacts(GUNSHOT, "note", None, "loud", "short", None), random.Random(n))


def test_articles_follow_pronunciation():
    caption = " | ".join(
        make_caption(ClipFacts(program, "note", pitch, "soft", None, None), random.Random(n))
        for program in (VIOLIN, OBOE, BELLS) for pitch in (57, 60, 64, 65) for n in range(300)
    )  # fmt: skip
    assert not re.search(r"\ba (A|E|F|oboe|E\d)", caption)
    assert not re.search(r"\ban (B|C|D|G|violin|soft)", caption)
    assert "an F4" in caption
    assert "an oboe plays" in caption
    assert "tubular bells play " in caption
    assert "a tubular bells" not in caption


def test_note_names_use_sharps_and_flats():
    assert {note_name(73, random.Random(n)) for n in range(100)} == {"C#5", "Db5", "C sharp 5", "D flat 5"}
    assert {note_name(60, random.Random(n)) for n in range(100)} == {"C4"}


def test_pitch_of_an_example_includes_the_shift():
    data = dataset(pitch_shift_semitones=1)
    index = find(data, program=73, kind="note", clear=True)
    pitches = {data.get(index, random.Random(n))["pitch"] - data.records()[index]["pitch"] for n in range(40)}
    assert pitches == {-1, 0, 1}
    chord = data.get(find(data, kind="chord"), random.Random(0))
    assert chord["pitch"] is None
    assert (chord["audio"].shape, chord["audio"].dtype) == ((1, 32768), torch.float32)


def test_number_of_listed_captions():
    listed = dataset().values("caption")
    assert 20_000 < len(listed) < 60_000
    with pytest.raises(ConfigError, match="got the field 'sound'"):
        dataset().values("sound")


def test_eval_set_has_held_out_clips_and_captions_that_name_their_pitch():
    eval_set = dataset().eval_set()
    all_fields = [eval_set.fields(index, None) for index in eval_set.indices("held_out")]
    assert len(all_fields) >= 300
    assert sum(fields["pitch"] is not None for fields in all_fields) >= 200
    wordings = Counter(eval_set.groups(index)["wording"] for index in eval_set.indices("held_out"))
    assert min(wordings.values()) > 0.4 * len(all_fields)
    for index, fields in zip(eval_set.indices("held_out"), all_fields, strict=True):
        assert eval_set.fields(index, None) == fields
        record = data.records()[index]
        assert any(name.text in fields["caption"] for name in instruments()[record["program"]].names)
        assert fields["pitch"] is None or re.search(r"\d", fields["caption"])
    assert set(eval_set.indices("pitches")) | set(eval_set.indices("phrases")) == set(eval_set.indices("held_out"))
