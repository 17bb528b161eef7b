"""Data sets of audio files in folders and tar files: formats, captions, crops, lengths, skipped files."""

from __future__ import annotations

import json
import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from audio.datasets.audio_files import RATE, encode_audio, put, ramp, write_tar

from lumina_audio.datasets.audio_dataset import FolderDataset, TarDataset
from lumina_core.errors import ConfigError
from lumina_core.training.dataloader import make_sampler


def folder(path: Path, **options: object) -> FolderDataset:
    return FolderDataset(FolderDataset.Config.read({"folder": str(path), "duration": 0.5, **options}, "test"))


def read(data: object, index: int = 0, seed: int = 0) -> torch.Tensor:
    return data.get(index, random.Random(seed))["audio"]


def test_formats_sample_rates_and_channels_may_be_mixed(tmp_path):
    put(tmp_path / "a.wav", ramp(1, 44100, 2), "stereo", 44100)
    put(tmp_path / "b.flac", ramp(1, 22050), "mono", 22050)
    put(tmp_path / "c.ogg", ramp(1, 8000), "narrow", 8000)
    data = folder(tmp_path)
    examples = [data.get(index, random.Random(1)) for index in range(3)]
    assert [one["caption"] for one in examples] == ["stereo", "mono", "narrow"]
    assert [one["file"] for one in examples] == ["a.wav", "b.flac", "c.ogg"]
    assert {one["audio"].shape for one in examples} == {(1, 8192)}  # 0.5 s, up to a multiple of 512
    assert {one["audio"].dtype for one in examples} == {torch.float32}
    assert {one["duration"] for one in examples} == {0.512}


def test_captions_jsonl_takes_precedence(tmp_path):
    put(tmp_path / "a.wav", ramp(1))
    put(tmp_path / "b.wav", ramp(1))
    lines = [{"file": "a.wav", "caption": "one"}, {"file": "b.wav", "captions": ["two", "zwei"]}, {"file": "no.wav"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = folder(tmp_path)
    assert set(data.values("caption")) == {"one", "two", "zwei"}
    assert [name for name, _ in data.skipped] == ["no.wav"]


def test_longer_file_is_cropped_at_random_or_at_its_start(tmp_path):
    put(tmp_path / "a.wav", ramp(4), "x")
    starts = {round(float(read(folder(tmp_path), seed=seed)[0, 0]), 3) for seed in range(20)}
    assert len(starts) == 20
    assert min(starts) >= 0.1 and max(starts) <= 0.9 - 0.8 * 0.5 / 4 + 0.01
    assert float(read(folder(tmp_path, crop="start"), seed=3)[0, 0]) == pytest.approx(0.1, abs=1e-4)
    assert torch.equal(read(folder(tmp_path), seed=5), read(folder(tmp_path), seed=5))


def test_shorter_file_is_padded_repeated_or_skipped(tmp_path):
    put(tmp_path / "a.wav", ramp(0.25), "short")
    put(tmp_path / "b.wav", ramp(1), "long")
    padded, repeated = read(folder(tmp_path)), read(folder(tmp_path, short_clips="repeat"))
    assert float(padded[0, 4000:].abs().max()) == 0
    torch.testing.assert_close(repeated[0, 4000:8000], padded[0, :4000])
    data = folder(tmp_path, short_clips="skip")
    assert data.values("file") == ["b.wav"]
    assert data.skipped[0] == ("a.wav", "0.25 s, shorter than 0.51 s")


def test_batches_have_one_length_that_fits_each_file(tmp_path):
    for number, seconds in enumerate([0.3, 0.6, 0.95, 1.2, 2.5, 5.0] * 4):
        put(tmp_path / f"{number:02d}.wav", ramp(seconds), f"{seconds}")
    data = folder(tmp_path, durations=[0.512, 1.024, 2.048])
    assert data.sizes() == [(8192,), (16384,), (32768,)]
    # 0.6 s fill too little of 1.024 s to be padded to it; 0.95 s are
    chosen = {data.get(n, random.Random(0))["caption"]: data.size(n, random.Random(0))[0] for n in range(6)}
    assert chosen == {"0.3": 8192, "0.6": 8192, "0.95": 16384, "1.2": 16384, "2.5": 32768, "5.0": 32768}
    order = make_sampler(data, 0)
    for step in range(6):
        draws = order.step_keys(step, 4)
        lengths = {data.get(draw.index, draw.python_rng())["audio"].shape for draw in draws}
        assert lengths == {(1, *data.size(draws[0].index, draws[0].python_rng()))}


def test_unusable_files_are_skipped_with_a_reason(tmp_path):
    put(tmp_path / "a.wav", ramp(1), "fine")
    put(tmp_path / "b.wav", np.zeros(RATE, np.float32), "silent")
    put(tmp_path / "c.wav", np.array([0.1, math.nan, 0.2] * 1000, np.float32), "broken")
    (tmp_path / "d.wav").write_text("words")
    (tmp_path / "d.txt").write_text("no sound")
    (tmp_path / "e.wav").write_bytes(b"")
    (tmp_path / "e.txt").write_text("empty")
    put(tmp_path / "f.wav", ramp(1))
    put(tmp_path / "g.wav", ramp(9), "long")
    put(tmp_path / "h.wav", np.clip(3 * np.sin(np.arange(RATE) / 20), -1, 1).astype(np.float32), "clipped")
    data = folder(tmp_path, max_duration=5, clipped_clips="skip")
    assert data.values("file") == ["a.wav"]
    reasons = dict(data.skipped)
    for name, reason in [
        ("b.wav", "silent"), ("c.wav", "NaN or infinite"), ("d.wav", "not a supported"), ("e.wav", "empty file"),
        ("f.txt", "missing"), ("g.wav", "too long: 9 s"), ("h.wav", "clipped"),
    ]:  # fmt: skip
        assert reason in reasons[name], (name, reasons)
    assert "7 skipped" in data.summary()
    assert folder(tmp_path, silent_clips="keep", max_duration=5).values("file") == ["a.wav", "b.wav", "h.wav"]


def test_error_for_an_empty_folder_tells_what_to_add(tmp_path):
    with pytest.raises(ConfigError, match="Add audio files"):
        folder(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        folder(tmp_path / "none")


def test_file_damaged_later_is_replaced_at_the_same_length(tmp_path):
    put(tmp_path / "a.wav", ramp(2), "gone")
    put(tmp_path / "b.wav", ramp(0.25), "here")
    data = folder(tmp_path, durations=[0.512, 1.024])
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    example = data.get(0, random.Random(0))
    assert (example["caption"], example["audio"].shape) == ("here", (1, 16384))


def test_loudness_is_normalized(tmp_path):
    put(tmp_path / "a.wav", 0.01 * ramp(1), "quiet")
    put(tmp_path / "b.wav", ramp(1), "loud")
    data = folder(tmp_path, loudness="peak")
    assert [float(read(data, n).max()) for n in range(2)] == pytest.approx([0.95, 0.95], abs=0.01)


def test_pickled_data_set_reads_the_same(tmp_path):
    put(tmp_path / "a.wav", ramp(2), "x")
    data = folder(tmp_path)
    assert torch.equal(read(pickle.loads(pickle.dumps(data))), read(data))


def test_tar_files_of_webdataset_are_read_in_any_order(tmp_path):
    members = {}
    for number in range(3):
        members[f"{number}.flac"] = encode_audio(ramp(1) * (number + 1) / 4)
        members[f"{number}.json"] = json.dumps({"text": f"number {number}", "tags": []}).encode()
    write_tar(tmp_path / "0.tar", members)
    write_tar(
        tmp_path / "1.tar", {"a.wav": b"no sound", "a.txt": b"broken", "b.flac": encode_audio(ramp(2)), "b.txt": b"two"}
    )
    data = TarDataset(TarDataset.Config.read({"folder": str(tmp_path), "duration": 0.5, "crop": "start"}, "test"))
    assert data.values("caption") == ["number 0", "number 1", "number 2", "two"]
    firsts = [float(read(data, n)[0, 0]) for n in (2, 0, 1)]
    assert firsts == pytest.approx([0.075, 0.025, 0.05], abs=1e-3)
    assert [name for name, _ in data.skipped] == ["1.tar/a.wav"]
