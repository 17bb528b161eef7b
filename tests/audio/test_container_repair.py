"""Audio files whose headers do not tell their length are read to their end, with a note where something is missing."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import soundfile
import torch

from lumina_audio.audio_input import parse_audio
from lumina_audio.audio_io import AudioError, read_audio, read_header
from lumina_audio.container_repair import JOINED_NOTE, TRUNCATED_NOTE, UNFINISHED_NOTE, repair
from lumina_audio.datasets.audio_dataset import FolderDataset

RATE = 16000
FORMATS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
]  # fmt: skip


def tone(seconds=4.0, hertz=440.0, rate=RATE, channels=1):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave] * channels, 1)


def encode(samples, form="WAV", kind="PCM_16", rate=RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=kind)
    return stream.getvalue()


def seconds(content: bytes) -> float:
    clip = read_audio(content, RATE)
    assert read_header(content).duration == pytest.approx(clip.waveform.shape[-1] / RATE, abs=0.5)
    return clip.waveform.shape[-1] / RATE


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("form", "kind"), FORMATS)
def test_a_complete_file_is_not_changed(form, kind, channels):
    noise = 0.1 * np.random.default_rng(0).normal(size=(RATE * 2, channels))
    content = encode(noise, form, kind)
    assert repair(content).content == content and repair(content).notes == ()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_is_read_to_its_end_whatever_its_header_promises(rate, channels):
    samples = tone(6, rate=rate, channels=channels)
    samples[:rate] *= 0.02
    content = encode(samples, "MP3", "MPEG_LAYER_III", rate)
    at = next(at for at in range(4, 5000) if content[at : at + 2] == content[:2])
    for data in (content[at:], content[at:] + content[at:][-1:], b"ID3\4\0\0\0\0\1\0" + bytes(128) + content[at:]):
        assert seconds(data) == pytest.approx(6, abs=0.25)
    assert seconds(content + content) == pytest.approx(12, abs=0.4)


def test_a_flac_of_unknown_length_is_read_to_its_end():
    for seconds_written in (0.01, 0.3, 4.0):
        content = bytearray(encode(tone(seconds_written), "FLAC"))
        word = int.from_bytes(content[18:26], "big") & ~((1 << 36) - 1)
        content[18:26] = word.to_bytes(8, "big")
        clip = read_audio(bytes(content), RATE)
        whole = read_audio(encode(tone(seconds_written), "FLAC"), RATE)
        assert torch.equal(clip.waveform, whole.waveform) and clip.notes == whole.notes


def test_a_wav_of_a_killed_recorder_is_read_to_its_end_with_a_note():
    whole = encode(tone())
    at = whole.index(b"data")
    for riff_size in (0, 36, None):
        content = bytearray(whole)
        content[at + 4 : at + 8] = bytes(4)
        if riff_size is not None:
            content[4:8] = riff_size.to_bytes(4, "little")
        clip = read_audio(bytes(content), RATE)
        assert torch.equal(clip.waveform, read_audio(whole, RATE).waveform) and clip.notes == (UNFINISHED_NOTE,)


@pytest.mark.parametrize("form", ["RF64", "AIFF", "AU"])
def test_other_containers_of_a_killed_recorder_are_read_to_their_end(form):
    whole = encode(tone(), form)
    content = bytearray(whole)
    if form == "AIFF":
        comm, ssnd = whole.index(b"COMM"), whole.index(b"SSND")
        content[4:8] = content[ssnd + 4 : ssnd + 8] = content[comm + 10 : comm + 14] = bytes(4)
    elif form == "AU":
        content[8:12] = bytes(4)
    else:
        content[20:36] = bytes(16)
    clip = read_audio(bytes(content), RATE)
    assert torch.equal(clip.waveform, read_audio(whole, RATE).waveform) and clip.notes == (UNFINISHED_NOTE,)


def test_an_empty_wav_stays_empty():
    with pytest.raises(AudioError, match="no samples"):
        read_audio(encode(np.zeros((0, 1))), RATE)


@pytest.mark.parametrize(("form", "kind"), [f for f in FORMATS if f[0] not in ("CAF", "W64", "RF64")])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_cut_file_has_what_is_there_and_a_note(form, kind, share, capfd):
    noise = 0.1 * np.random.default_rng(0).normal(size=(RATE * 6, 1))
    rate = 48000 if kind == "OPUS" else RATE
    content = encode(noise, form, kind, rate)
    clip = read_audio(content[: int(share * len(content))], rate)
    whole = read_audio(content, rate)
    assert TRUNCATED_NOTE in clip.notes
    assert share / 2 < clip.waveform.shape[-1] / whole.waveform.shape[-1] < min(share * 1.3, 1)
    assert torch.allclose(clip.waveform[0, :RATE], whole.waveform[0, :RATE], atol=1e-3)
    assert "Warning" not in capfd.readouterr().err


def test_a_file_that_is_cut_before_its_first_sample_is_refused():
    content = encode(tone(), "OGG", "VORBIS")
    with pytest.raises(AudioError, match=r"cut off before|not a supported|truncated"):
        read_audio(content[: len(content) // 4], RATE)


@pytest.mark.parametrize(("form", "kind"), [("OGG", "VORBIS"), ("WAV", "PCM_16"), ("FLAC", "PCM_16")])
def test_a_recording_behind_the_first_one_is_noted(form, kind, tmp_path):
    content = encode(tone(4), form, kind) + encode(tone(4, 880), form, kind)
    assert JOINED_NOTE in read_audio(content, RATE).notes
    (tmp_path / "two").write_bytes(content)
    assert form == "FLAC" or JOINED_NOTE in parse_audio(tmp_path / "two").notes


def test_a_format_that_cannot_be_sought_in_is_read(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(encode(tone(4, rate=8000), "WAV", "GSM610", 8000))
    whole = read_audio(path, 8000)
    assert whole.waveform.shape[-1] == 32000
    part = read_audio(path, 8000, start=1.0, duration=0.5)
    assert torch.equal(part.waveform, whole.waveform[:, 8000:12000])


def test_a_segment_of_a_repaired_file_is_that_of_the_whole():
    samples = 0.2 * np.random.default_rng(0).normal(size=(RATE * 6, 1))
    content = encode(samples, "MP3", "MPEG_LAYER_III")
    at = next(at for at in range(4, 5000) if content[at : at + 2] == content[:2])
    whole = read_audio(content[at:], RATE).waveform
    part = read_audio(content[at:], RATE, start=3.0, duration=0.5).waveform
    assert torch.allclose(part, whole[:, 3 * RATE : 3 * RATE + RATE // 2], atol=0.02)


def test_silence_with_an_offset_is_silent_and_is_not_made_loud(tmp_path):
    quiet = np.random.default_rng(0).normal(0, 2e-5, 2 * RATE)
    for name, samples in (("tone", tone(2)[:, 0]), ("quiet", quiet), ("offset", quiet + 0.02)):
        (tmp_path / f"{name}.wav").write_bytes(encode(samples))
        (tmp_path / f"{name}.txt").write_text(name)
    clip = read_audio(tmp_path / "offset.wav", RATE, loudness="level")
    assert clip.notes == ("silent",) and float(clip.waveform.abs().max()) < 0.03
    data = FolderDataset(FolderDataset.Config.read({"folder": str(tmp_path), "duration": 1}, "test"))
    assert data.values("file") == ["tone.wav"]
    assert "silent" in read_audio(encode(np.stack([quiet + 0.3, quiet - 0.3], 1)), RATE).notes


def test_a_file_of_another_format_is_named():
    with pytest.raises(AudioError, match="Git LFS"):
        read_audio(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", RATE)
    with pytest.raises(AudioError, match="M4A"):
        read_audio(b"\0\0\0\x20ftypM4A \0\0\0\0", RATE)


def test_any_damage_raises_audio_errors_only():
    draw = np.random.default_rng(0)
    for form, kind in FORMATS:
        content = encode(tone(1), form, kind)
        for _ in range(25):
            data = bytearray(content[: draw.integers(4, len(content))] if draw.random() < 0.5 else content)
            for _ in range(draw.integers(0, 12)):
                data[draw.integers(0, min(len(data), 400))] = draw.integers(0, 256)
            try:
                read_audio(bytes(data), RATE)
            except AudioError as error:
                assert "\n" not in str(error)


def test_what_replaces_a_broken_sound_does_not_depend_on_what_was_read_before(tmp_path):
    for number in range(3):
        samples = tone(4, 200 + 100 * number)[:, 0] if number != 1 else np.full(4 * RATE, np.nan)
        (tmp_path / f"{number}.wav").write_bytes(encode(samples, "WAV", "FLOAT"))
        (tmp_path / f"{number}.txt").write_text("".join(f"tone {number} {word}\n" for word in "abc"))

    def folder():
        options = {"folder": str(tmp_path), "duration": 1, "validate_first": 0, "crop": "random"}
        return FolderDataset(FolderDataset.Config.read(options, "test"))

    used, fresh = folder(), folder()
    for seed in range(4):
        used.get(1, random.Random(seed))
    for seed in range(6):
        a, b = used.get(1, random.Random(seed)), fresh.get(1, random.Random(seed))
        assert a["caption"] == b["caption"] and torch.equal(a["audio"], b["audio"])
        fresh = folder()
