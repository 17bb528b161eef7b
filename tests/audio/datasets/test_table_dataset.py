"""Tables such as those of AudioCaps and MusicCaps: files and parts of rows, skipped rows, errors."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from audio.datasets.audio_files import put, ramp

from lumina_audio.datasets.table_dataset import TableDataset
from lumina_core.errors import ConfigError

AUDIOCAPS = """audiocap_id,youtube_id,start_time,caption
1,aaa,30,A dog barks
2,bbb,0,"Rain falls, then thunder"
3,ccc,10,A car passes
4,-ddd,100,A bell rings
"""
MUSICCAPS = """ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id
aaa,30,40,"/m/01,/m/02","['slow', 'sad']","A slow, sad piano.",4
eee,5,15,/m/03,['fast'],A fast drum.,0
"""


def manifest(path: Path, text: str, name: str = "table.csv", **options: object) -> TableDataset:
    (path / name).write_text(text, encoding="utf-8")
    return TableDataset(
        TableDataset.Config.read(
            {
                "table": str(path / name),
                "duration": 0.5,
                "crop": "start",
                "sample_rate": 2000,
                "length_multiple": 10,
                **options,
            },
            "test",
        )
    )


def first(data: TableDataset, index: int) -> tuple[str, float]:
    example = data.get(index, random.Random(0))
    return example["caption"], float(example["audio"][0, 0])


def test_rows_of_audiocaps_find_clips_or_parts_of_full_videos(tmp_path):
    put(tmp_path / "aaa_30.wav", ramp(10, 2000), rate=2000)  # cut out before
    put(tmp_path / "Ybbb.flac", ramp(10, 2000), rate=2000)
    put(tmp_path / "ccc.wav", ramp(40, 2000), rate=2000)  # the whole video: 10 s to 20 s of it are meant
    data = manifest(tmp_path, AUDIOCAPS)
    assert len(data) == 3
    assert first(data, 0) == ("A dog barks", pytest.approx(0.1, abs=0.001))
    assert first(data, 1) == ("Rain falls, then thunder", pytest.approx(0.1, abs=0.001))
    assert first(data, 2) == ("A car passes", pytest.approx(0.1 + 0.8 * 10 / 40, abs=0.001))
    ((index, reason),) = data.skipped
    assert index == "table.csv:5"
    assert reason.startswith("missing: no -ddd.wav, -ddd_100_110.wav")


def test_rows_of_musiccaps_find_clips_in_another_folder(tmp_path):
    (tmp_path / "wav").mkdir()
    put(tmp_path / "wav" / "[aaa]-[30-40].wav", ramp(10, 2000), rate=2000)
    data = manifest(tmp_path, MUSICCAPS, folder=str(tmp_path / "wav"))
    assert data.values("caption") == ["A slow, sad piano."]
    assert data.skipped[0].reason.startswith("missing: no eee.wav, eee_5_15.wav")
    crops = manifest(tmp_path, MUSICCAPS, folder=str(tmp_path / "wav"), crop="random")
    starts = [float(crops.get(0, random.Random(n))["audio"][0, 0]) for n in range(8)]
    assert len(set(starts)) == 8


def test_error_for_missing_files_counts_them_and_names_the_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"4 of the 4 files of table.csv are missing in .*dataset\.folder"):
        manifest(tmp_path, AUDIOCAPS)


def test_csv_tsv_and_jsonl_name_files_and_parts_of_them(tmp_path):
    put(tmp_path / "a.wav", ramp(4, 2000), rate=2000)
    for name, text in [
        ("t.csv", "file,start,end,text\na.wav,1,2,x\na.wav,,,y\n"),
        ("t.tsv", "file\tstart\tend\ttext\na.wav\t1\t2\tx\na.wav\t\t\ty\n"),
        ("t.jsonl", '{"file": "a.wav", "start": 1, "end": 2, "text": "x"}\n{"file": "a.wav", "text": ["y"]}\n'),
    ]:
        data = manifest(tmp_path, text, name)
        assert first(data, 0) == ("x", pytest.approx(0.3, abs=0.001))
        assert first(data, 1) == ("y", pytest.approx(0.1, abs=0.001))


def test_part_is_not_read_beyond_its_end(tmp_path):
    put(tmp_path / "a.wav", ramp(4, 2000), rate=2000)
    data = manifest(tmp_path, "file,start,end,text\na.wav,1,1.25,x\n")
    sound = data.get(0, random.Random(0))["audio"][0]
    assert float(sound[498]) == pytest.approx(0.35, abs=0.001)
    assert float(sound[503:].abs().max()) == 0


def test_unusable_rows_are_skipped_with_a_reason(tmp_path):
    put(tmp_path / "a.wav", ramp(1, 2000), rate=2000)
    rows = [
        "a.wav,0,1,fine",
        "a.wav,2,3,late",
        "a.wav,x,1,words",
        "a.wav,3,2,backwards",
        "../b.wav,0,1,out",
        "a.wav,0,1,",
    ]
    data = manifest(tmp_path, "\n".join(["file,start,end,text", *rows]))
    assert data.values("caption") == ["fine"]
    reasons = " ".join(reason for _, reason in data.skipped)
    for reason in (
        "after the end of the file",
        "expected a number of seconds",
        "expected 0 <= start < end",
        "leads outside",
        "no caption",
    ):
        assert reason in reasons


def test_error_for_missing_columns_lists_those_of_the_table(tmp_path):
    with pytest.raises(ConfigError, match=r"no column of file: got name, caption, expected file or file_name"):
        manifest(tmp_path, "name,caption\na,b\n")
    with pytest.raises(ConfigError, match=r"no column of captions: got file, words, expected captions or caption"):
        manifest(tmp_path, "file,words\na.wav,b\n")
    with pytest.raises(ConfigError, match="has no rows"):
        manifest(tmp_path, "file,caption\n")
    with pytest.raises(ConfigError, match="got no file"):
        TableDataset(TableDataset.Config.read({"table": str(tmp_path / "none.csv")}, "test"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        TableDataset(TableDataset.Config.read({"table": str(tmp_path / "binary.csv")}, "test"))
