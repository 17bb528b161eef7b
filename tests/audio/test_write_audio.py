"""Written audio files: samples, metadata, levels, and sizes."""

from __future__ import annotations

import os
import wave

import numpy as np
import pytest
import soundfile
import torch
from audio.read_files import samples
from audio.tones import tone

from lumina_audio import audio_io
from lumina_audio.audio_io import read_audio, read_metadata, write_audio
from lumina_audio.task import TextToAudio
from lumina_core.errors import LuminaError

LONG = {"prompt": '日本 "trumpet"\n' + "é" * 20000, "seed": 1, "settings": {"steps": 3}}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("metadata", [{"prompt": "a trumpet", "seed": 2**61}, LONG])
def test_metadata_of_any_length_is_read_back(tmp_path, suffix, metadata):
    write_audio(tmp_path / f"a{suffix}", tone(440.0, 4001), 16000, metadata)
    assert read_metadata(tmp_path / f"a{suffix}") == metadata
    assert os.listdir(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_all_16_bit_samples_survive_reading_and_writing(tmp_path, suffix):
    every = torch.arange(-32768, 32768)[None] / 32768
    write_audio(tmp_path / f"a{suffix}", every, 16000, {})
    assert samples(tmp_path / f"a{suffix}").tolist() == list(range(-32768, 32768))
    again = read_audio(tmp_path / f"a{suffix}", 16000).waveform
    write_audio(tmp_path / f"b{suffix}", again, 16000, {})
    assert samples(tmp_path / f"b{suffix}").tolist() == list(range(-32768, 32768))


def test_ogg_of_a_minute_is_complete(tmp_path):
    write_audio(tmp_path / "a.ogg", 0.1 * torch.randn(1, 16000 * 60), 16000, {})
    assert soundfile.info(str(tmp_path / "a.ogg")).frames == 16000 * 60


def test_wav_with_metadata_is_valid_for_other_readers(tmp_path):
    write_audio(tmp_path / "a.wav", tone(440.0, 4001), 16000, LONG)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels(), file.getsampwidth()) == (4001, 16000, 1, 2)
    assert os.path.getsize(tmp_path / "a.wav") == 8 + int.from_bytes((tmp_path / "a.wav").read_bytes()[4:8], "little")


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_beyond_the_size_of_a_riff_file_is_written_as_rf64(tmp_path, monkeypatch, channels):
    monkeypatch.setattr(audio_io, "MAX_RIFF_BYTES", 8000)
    waveform = tone(440.0, 4001).expand(channels, -1)
    write_audio(tmp_path / "a.wav", waveform, 16000, LONG)
    content = (tmp_path / "a.wav").read_bytes()
    assert content[:4] == b"RF64" and int.from_bytes(content[20:28], "little") == len(content) - 8
    expected = np.rint(waveform.numpy().T * 32768).clip(-32768, 32767).squeeze()
    assert np.array_equal(samples(tmp_path / "a.wav"), expected)
    assert read_metadata(tmp_path / "a.wav") == LONG
    # sizes beyond 32 bits stand in the chunk ds64, and 2**32 - 1 in their index
    start = content.index(b"data")
    wide = content[: start + 4] + b"\xff" * 4 + content[start + 8 :]
    (tmp_path / "wide.wav").write_bytes(wide)
    assert read_metadata(tmp_path / "wide.wav") == LONG


def test_metadata_of_a_missing_file_are_an_error_that_says_so(tmp_path):
    with pytest.raises(LuminaError, match="No such file or directory"):
        read_metadata(tmp_path / "a.wav")


def test_metadata_of_other_programs_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440.0)[0].numpy(), 16000)
    (tmp_path / "b.wav").write_text("hello")
    with pytest.raises(LuminaError, match="another program wrote it"):
        read_metadata(tmp_path / "a.wav")
    with pytest.raises(LuminaError, match="not a readable audio file"):
        read_metadata(tmp_path / "b.wav")


def test_clip_beyond_full_scale_is_divided_by_its_peak_with_a_warning(tmp_path):
    task, loud = TextToAudio(TextToAudio.Config()), 5 * tone(440.0)
    with pytest.warns(UserWarning, match="beyond full scale"):
        task.save(loud, tmp_path / "a.wav", {"prompt": "x"})
    factor = read_metadata(tmp_path / "a.wav")["gain"]
    assert factor == pytest.approx(1 / float(loud.abs().max()), abs=1e-4)
    assert samples(tmp_path / "a.wav") / 32768 == pytest.approx(loud[0].numpy() * factor, abs=2e-4)


def test_after_inpainting_only_the_generated_part_is_made_quieter(tmp_path):
    task = TextToAudio(TextToAudio.Config(sample_rate=1000))
    loud = torch.tensor([[0.5, -0.25, 3.0, -2.0, 0.125, 1.5, -4.0]])
    with pytest.warns(UserWarning, match=r"generated part of the audio beyond full scale.* 0\.250"):
        task.save(loud, tmp_path / "a.wav", {"prompt": "x", "inpaint": [[0.002, 0.004]], "extend": 0.002})
    assert samples(tmp_path / "a.wav").tolist() == [16384, -8192, 24576, -16384, 4096, 12288, -32768]
    assert read_metadata(tmp_path / "a.wav")["gain"] == 0.25


def test_failed_write_keeps_the_previous_file(tmp_path):
    write_audio(tmp_path / "a.wav", tone(440.0), 16000, {"seed": 1})
    with pytest.raises(TypeError):
        write_audio(tmp_path / "a.wav", tone(220.0), 16000, {"seed": object()})
    assert read_metadata(tmp_path / "a.wav") == {"seed": 1} and os.listdir(tmp_path) == ["a.wav"]
