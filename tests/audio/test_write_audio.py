"""Sounds as files: what is read back, what is said of the request, and what is too loud."""

from __future__ import annotations

import os
import wave

import pytest
import soundfile
import torch
from audio.read_files import samples
from audio.tones import tone

from lumina_audio.audio_io import limit_peak_with_factor, read_audio, read_metadata, write_audio
from lumina_audio.task import TextToAudio
from lumina_core.errors import LuminaError

LONG = {"prompt": '日本 "trumpet"\n' + "é" * 20000, "seed": 1, "settings": {"steps": 3}}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("record", [{"prompt": "a trumpet", "seed": 2**61}, LONG])
def test_the_record_comes_back_however_long_it_is(tmp_path, suffix, record):
    write_audio(tmp_path / f"a{suffix}", tone(440.0, 4001), 16000, record)
    assert read_metadata(tmp_path / f"a{suffix}") == record
    assert os.listdir(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_that_were_read_are_written_again_as_they_were(tmp_path, suffix):
    every = torch.arange(-32768, 32768)[None] / 32768
    write_audio(tmp_path / f"a{suffix}", every, 16000, {})
    assert samples(tmp_path / f"a{suffix}").tolist() == list(range(-32768, 32768))
    again = read_audio(tmp_path / f"a{suffix}", 16000).waveform
    write_audio(tmp_path / f"b{suffix}", again, 16000, {})
    assert samples(tmp_path / f"b{suffix}").tolist() == list(range(-32768, 32768))


def test_an_ogg_of_a_minute_is_written_whole(tmp_path):
    write_audio(tmp_path / "a.ogg", 0.1 * torch.randn(1, 16000 * 60), 16000, {})
    assert soundfile.info(str(tmp_path / "a.ogg")).frames == 16000 * 60


def test_a_wav_is_one_for_readers_that_know_nothing_of_its_notes(tmp_path):
    write_audio(tmp_path / "a.wav", tone(440.0, 4001), 16000, LONG)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels(), file.getsampwidth()) == (4001, 16000, 1, 2)
    assert os.path.getsize(tmp_path / "a.wav") == 8 + int.from_bytes((tmp_path / "a.wav").read_bytes()[4:8], "little")


def test_other_peoples_files_hold_no_record(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440.0)[0].numpy(), 16000)
    (tmp_path / "b.wav").write_text("hello")
    with pytest.raises(LuminaError, match="holds no record"):
        read_metadata(tmp_path / "a.wav")
    with pytest.raises(LuminaError, match="cannot be read"):
        read_metadata(tmp_path / "b.wav")


def test_a_sound_beyond_full_scale_is_made_softer_as_a_whole_and_says_so(tmp_path):
    task, loud = TextToAudio(TextToAudio.Config()), 5 * tone(440.0)
    with pytest.warns(UserWarning, match="made softer"):
        task.save(loud, tmp_path / "a.wav", {"prompt": "x"})
    factor = read_metadata(tmp_path / "a.wav")["gain"]
    assert factor == pytest.approx(1 / float(loud.abs().max()), abs=1e-4)
    assert samples(tmp_path / "a.wav") / 32768 == pytest.approx(loud[0].numpy() * factor, abs=2e-4)
    assert limit_peak_with_factor(tone(440.0))[1] is None


def test_where_another_sound_stays_only_what_was_drawn_is_made_softer(tmp_path):
    task, loud = (
        TextToAudio(TextToAudio.Config(sample_rate=1000)),
        torch.tensor([[0.5, -0.25, 3.0, -2.0, 0.125, 1.5, -4.0]]),
    )
    with pytest.warns(UserWarning, match="what was drawn is made softer, by 0.250"):
        task.save(loud, tmp_path / "a.wav", {"prompt": "x", "inpaint": [[0.002, 0.004]], "extend": 0.002})
    assert samples(tmp_path / "a.wav").tolist() == [16384, -8192, 24576, -16384, 4096, 12288, -32768]
    assert read_metadata(tmp_path / "a.wav")["gain"] == 0.25


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    write_audio(tmp_path / "a.wav", tone(440.0), 16000, {"seed": 1})
    with pytest.raises(TypeError):
        write_audio(tmp_path / "a.wav", tone(220.0), 16000, {"seed": object()})
    assert read_metadata(tmp_path / "a.wav") == {"seed": 1} and os.listdir(tmp_path) == ["a.wav"]
