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
        ("the C below middle C", "the C3"),
        ("the E just above middle C", "the E4"),
        ("a tone two octaves above middle C", "a tone C6"),
        ("an octave below A4", "A3"),
        ("middle D, middle F#, middle B flat", "D4, F#4, A#4"),
        ("A4 = 440 Hz, A=440Hz, 0,44 kHz", "A4, A4, A4"),
        ("MIDI60, MIDI-61, MIDI note #62, note 63", "C4, C#4, D4, D#4"),
        ("C four, c sharp four, A in octave four", "C4, C#4, A4"),
        ("the fourth octave A, E in the 3rd octave", "the A4, E3"),
        ("H3, h4", "B3, B4"),
        ("Cis4, Es3, As2, Des4", "C#4, D#3, G#2, C#4"),
        ("do4, la 4, fa#3, ré 4, si bémol 3", "C4, A4, F#3, D4, A#3"),
        ("C##4, Bbb3, C double sharp 4", "D4, A3, D4"),
        ("A-4, C.4, C⁴", "A4, C4, C4"),
        ("a trumpet plays B flat", "a trumpet plays A#4"),
        ("a harp plays the note c sharp softly", "a harp plays the note C#4 softly"),
        ("G on a violin", "G4 on a violin"),
        ("a rising scale from C on a flute", "a rising scale from C4 on a flute"),
        ("a flute plays do", "a flute plays C4"),
        ("H", "B4"),
    ],
)
def test_usual_names(text, expected):
    assert normalize_note_names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "C major chord", "a B flat clarinet", "a 4 second note", "A 4 second note", "a low note on a tuba",
        "'a flute plays c''", "lead 4 synth", "a loud A on a flute", "high C major chord",
        "in the middle a drum", "middle A minor chord", "a note 12 seconds long", "do 4 bars", "so 4 drums",
        "as 4 drums", "a cello plays A major scale", "plays a B flat clarinet", "plays so softly",
        "a note on a G string", "0 Hz", "a recording at 16 kHz", "note 440",
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
    assert normalize_note_names("Cb4, E#4, F flat 4", keep_known=True) == "B3, F4, E4"  # no caption has these
    assert normalize_note_names("middle C, bb3, B♭3", keep_known=True) == "C4, A#3, A#3"
