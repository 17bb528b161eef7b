"""Names of notes in prompts."""

from __future__ import annotations

import pytest

from lumina_audio.task import TextToAudio
from lumina_audio.text.note_names import canonical_note_name, normalize_note_names, parse_note_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cello plays G2", "a cello plays G2"),
        ("middle C on a piano", "C4 on a piano"),
        ("a flute, c4", "a flute, C4"),
        ("Bb3 on a tuba", "A#3 on a tuba"),
        ("B flat 3", "A#3"),
        ("B-flat 2", "A#2"),
        ("E flat4", "D#4"),
        ("F♯5, D♭4", "F#5, C#4"),
        ("C₄", "C4"),
        ("C 4 on a harp", "C4 on a harp"),
        ("Cb4", "B3"),
        ("the A above middle C", "the A4"),
        ("G below middle C", "G3"),
        ("concert A", "A4"),
        ("A440", "A4"),
        ("a tone of 261.6 Hz", "a tone of C4"),
        ("MIDI note 61", "C#4"),
        ("E in the third octave", "E3"),
        ("a flute plays c''", "a flute plays C5"),
        ("high C on a trumpet", "C6 on a trumpet"),
    ],
)
def test_usual_names(text, expected):
    assert normalize_note_names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "C major chord", "a B flat clarinet", "a 4 second note", "A 4 second note", "a low note on a tuba",
        "'a flute plays c''", "lead 4 synth", "a loud A on a flute", "high C major chord",
    ],
)  # fmt: skip
def test_other_texts_are_unchanged(text):
    assert normalize_note_names(text) == text


def test_all_notes_of_all_spellings_are_parsed():
    for note in range(21, 109):
        assert parse_note_names(f"a harp plays {canonical_note_name(note)}") == [note]


def test_task_replaces_names_if_configured():
    for enabled, caption in ((False, "middle C"), (True, "C4")):
        task = TextToAudio(TextToAudio.Config(note_names=enabled))
        request = task.Request(prompt="middle C", negative_prompt="middle C")
        assert task.conditions(request)["caption"] == [caption]
        assert task.negative_conditions(request)["caption"] == [caption]


def test_spellings_of_the_captions_are_kept_on_request():
    known = "C4, C#4, Db4, C sharp 4, D flat 4"
    assert normalize_note_names(known, keep_known=True) == known
    assert normalize_note_names(known) == "C4, C#4, C#4, C#4, C#4"
    assert normalize_note_names("middle C, bb3, B♭3", keep_known=True) == "C4, A#3, A#3"
