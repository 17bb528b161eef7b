"""Tables in the forms that other programs write: every row is used or named with a reason, never half of it."""

from __future__ import annotations

import json

import pytest
from audio.datasets.audio_files import put, ramp
from audio.datasets.test_table_dataset import manifest

from lumina_core.errors import ConfigError

ROWS = [{"file": f"{name}.wav", "caption": f"tone {name}"} for name in "abc"]


@pytest.fixture
def sounds(tmp_path):
    for name in "abc":
        put(tmp_path / f"{name}.wav", ramp(0.5, 2000), rate=2000)
    return tmp_path


def reasons(data):
    return {skipped.name: skipped.reason for skipped in data.skipped}


def test_a_table_may_be_an_array_have_absolute_paths_or_backslashes(sounds):
    absolute = [{"path": str(sounds / row["file"]), "text": row["caption"]} for row in ROWS]
    for name, text in {
        "pretty.json": json.dumps(ROWS, indent=1),
        "one_line.json": json.dumps(ROWS),
        "around.json": json.dumps({"count": 3, "data": ROWS}, indent=1),
        "absolute.jsonl": "\n".join(map(json.dumps, absolute)),
        "windows.csv": "file,caption\n.\\a.wav,tone a\n.\\b.wav,tone b\n.\\c.wav,tone c\n",
        "capitals.csv": "FILE, Caption \na.wav,tone a\nb.wav,tone b\nc.WAV,tone c\n",
        "excel.csv": "\ufefffile;caption\r\na.wav;tone a\r\nb.wav;tone b\r\nc.wav;tone c\r\n",
    }.items():
        data = manifest(sounds, text, name)
        assert data.values("caption") == ["tone a", "tone b", "tone c"] and not data.skipped, name


def test_tables_by_tabs_have_no_quotation_marks(sounds):
    text = 'path\ttext\na.wav\t"Hello\nb.wav\tgood bye\nc.wav\tsaid "yes"\n'
    assert manifest(sounds, text, "t.tsv").values("caption") == ['"Hello', "good bye", 'said "yes"']


def test_a_stray_quotation_mark_costs_its_own_row(sounds):
    text = 'file,caption\na.wav,"Hello\nb.wav,good bye\nc.wav,"said, twice"\n'
    data = manifest(sounds, text)
    assert data.values("caption") == ["good bye", "said, twice"]
    assert "quotation marks do not match" in reasons(data)["table.csv:2"]


def test_a_row_of_too_many_fields_is_skipped_and_never_used_by_half(sounds):
    data = manifest(sounds, "file,caption\na.wav,a dog barks, loudly, then a door\nb.wav,a cat\nc.wav,a cow,,\n")
    assert data.values("caption") == ["a cat", "a cow"]
    assert "4 fields for 2 columns" in reasons(data)["table.csv:2"]


def test_sounds_that_the_table_does_not_name_are_counted(sounds):
    data = manifest(sounds, "file,caption\na.wav,one\n")
    assert "2 of the files that lie there: b.wav, c.wav" in reasons(data)["table.csv"]


def test_a_column_that_stands_twice_is_refused(sounds):
    with pytest.raises(ConfigError, match="the column 'caption' twice"):
        manifest(sounds, "file,caption,caption\na.wav,one,two\n")
