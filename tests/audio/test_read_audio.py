"""Sound files of every kind in, one channel at one rate out; and a clear word about each that cannot be used."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lumina_audio.audio_io import AudioError, gated_rms, read_audio, read_header, resample

RATE = 16000


def tone(seconds: float = 0.5, rate: int = RATE, frequency: float = 440.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(path: Path, wave: np.ndarray, rate: int = RATE, **more: str) -> Path:
    soundfile.write(path, wave, rate, **more)
    return path


def frequency(wave: torch.Tensor, rate: int = RATE) -> float:
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)), 8 * len(wave)).abs()
    return float(spectrum.argmax()) * rate / (8 * len(wave))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_tone_keeps_frequency_and_level_from_any_format_and_rate(tmp_path, suffix, rate):
    sound = read_audio(written(tmp_path / f"a.{suffix}", tone(rate=rate), rate), RATE)
    assert sound.sample_rate == RATE
    assert sound.waveform.dtype == torch.float32
    assert sound.waveform.shape[1] / RATE == pytest.approx(0.5, abs=0.06 if suffix == "mp3" else 0.001)
    middle = sound.waveform[0, 2000:6000]
    assert frequency(middle) == pytest.approx(440, abs=1)
    assert float(middle.abs().max()) == pytest.approx(0.5, rel=0.1)
    assert sound.notes == ()


def test_16_bit_samples_at_the_same_rate_are_read_exactly(tmp_path):
    numbers = np.random.default_rng(0).integers(-32768, 32768, 4000, dtype=np.int16)
    sound = read_audio(written(tmp_path / "a.wav", numbers), RATE)
    assert torch.equal((sound.waveform[0] * 32768).to(torch.int32), torch.from_numpy(numbers).int())


def test_channels_are_averaged(tmp_path):
    left, right = tone(), tone(frequency=880)
    sound = read_audio(written(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT"), RATE)
    torch.testing.assert_close(sound.waveform[0], torch.from_numpy((left + right) / 2))


def test_segment_is_read_alone(tmp_path):
    wave = np.linspace(-0.9, 0.9, RATE, dtype=np.float32)
    path = written(tmp_path / "a.wav", wave, subtype="FLOAT")
    part = read_audio(path, RATE, start=0.25, duration=0.5, max_duration=0.1)
    torch.testing.assert_close(part.waveform[0], torch.from_numpy(wave[4000:12000]))


def test_loudness_is_kept_or_brought_to_a_peak_or_to_a_level(tmp_path):
    quiet = written(tmp_path / "a.wav", np.concatenate([tone(1, peak=0.05), np.zeros(RATE, np.float32)]))
    assert float(read_audio(quiet, RATE).waveform.abs().max()) == pytest.approx(0.05, rel=0.01)
    assert float(read_audio(quiet, RATE, loudness="peak").waveform.abs().max()) == pytest.approx(0.95)
    level = read_audio(quiet, RATE, loudness="level").waveform[0]
    # the silent second is gated out: what sounds has the level, the whole has less
    assert float(level[4000:12000].square().mean().sqrt()) == pytest.approx(0.1, rel=0.1)
    assert gated_rms(level, RATE) == pytest.approx(0.1, rel=0.01)
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    assert float(read_audio(written(tmp_path / "b.wav", click), RATE, loudness="level").waveform.max()) <= 1


def test_silent_clip_has_a_note_and_is_never_amplified(tmp_path):
    path = written(tmp_path / "a.wav", np.full(RATE, 2e-5, np.float32), subtype="FLOAT")
    for loudness in ("keep", "peak", "level"):
        sound = read_audio(path, RATE, loudness=loudness)
        assert sound.notes == ("silent",)
        assert float(sound.waveform.abs().max()) < 1e-4


def test_clipping_has_a_note_and_a_single_full_scale_sample_has_none(tmp_path):
    cut = read_audio(written(tmp_path / "a.wav", np.clip(tone(peak=2.0), -1, 1)), RATE)
    assert [note.split(" (")[0] for note in cut.notes] == ["clipped"]
    touch = tone()
    touch[100] = 1.0
    assert read_audio(written(tmp_path / "b.wav", touch), RATE).notes == ()


def test_floats_beyond_full_scale_have_a_note_and_are_divided_by_the_peak(tmp_path):
    sound = read_audio(written(tmp_path / "a.wav", tone(peak=4.0), subtype="FLOAT"), RATE)
    assert any(note.startswith("louder than full scale (12.0 dB)") for note in sound.notes)
    assert float(sound.waveform.abs().max()) == pytest.approx(1, abs=1e-6)


def test_absurd_sample_values_are_refused_and_integers_stored_as_floats_are_not(tmp_path):
    with pytest.raises(AudioError, match=r"peak: got 3e\+38, expected at most 4e\+09"):
        read_audio(written(tmp_path / "a.wav", tone(peak=1) * np.float32(3e38), subtype="FLOAT"), RATE)
    whole = read_audio(written(tmp_path / "b.wav", tone() * 32768, subtype="FLOAT"), RATE).waveform
    assert frequency(whole[0, 2000:6000]) == pytest.approx(440, abs=1)


def test_damaged_headers_raise_only_audio_errors_and_print_nothing(tmp_path, capfd):
    draw = random.Random(0)
    for kind in ("wav", "flac", "ogg", "aiff", "caf", "w64"):
        whole = written(tmp_path / f"a.{kind}", tone()).read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(draw.choice((1, 3, 9))):
                data[draw.randrange(min(len(data), 200))] = draw.choice((0, 127, 128, 255))
            try:
                sound = read_audio(bytes(data[: draw.choice((len(data), draw.randrange(1, len(data))))]), RATE)
            except AudioError as error:
                assert "\n" not in str(error)
            else:
                assert bool(torch.isfinite(sound.waveform).all())
    assert "Traceback" not in capfd.readouterr().err


def test_cancelling_channels_have_another_note_than_silence(tmp_path):
    wave = np.stack([tone(), -tone()], axis=1)
    assert read_audio(written(tmp_path / "a.wav", wave), RATE).notes[0].startswith("silent after mixing its channels")
    assert read_audio(written(tmp_path / "b.wav", wave * 0), RATE).notes == ("silent",)


def test_truncated_wav_has_a_note_and_a_streamed_wav_of_unknown_length_has_none(tmp_path):
    whole = written(tmp_path / "a.wav", tone()).read_bytes()
    sound = read_audio(whole[: len(whole) // 2], RATE)
    assert sound.notes == ("truncated: its header states more data",) and sound.waveform.numel() > RATE / 8
    streamed = whole.replace(b"data" + whole[whole.index(b"data") + 4 :][:4], b"data\xff\xff\xff\xff", 1)
    assert streamed != whole and read_audio(streamed, RATE).notes == ()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_and_infinite_samples_are_counted_and_located(tmp_path, wrong):
    wave = tone()
    wave[[4000, 4001]] = wrong
    with pytest.raises(AudioError, match=r"2 samples are NaN or infinite, the first at 0\.250 s"):
        read_audio(written(tmp_path / "a.wav", wave, subtype="FLOAT"), RATE)


def test_unreadable_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not a sound at all, whatever it is called")
    (tmp_path / "raw.raw").write_bytes(bytes(4000))
    (tmp_path / "folder.wav").mkdir()
    written(tmp_path / "whole.flac", tone())
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:2000])
    written(tmp_path / "none.wav", np.zeros(0, np.float32))
    expected = {
        "empty.wav": "an empty file",
        "text.wav": "not a supported audio file",
        "raw.raw": "not a supported audio file",
        "folder.wav": "not a regular file",
        "cut.flac": "truncated|not a supported audio file",
        "none.wav": "the file has no samples",
        "missing.wav": "No such file",
    }
    for name, reason in expected.items():
        with pytest.raises(AudioError, match=reason) as error:
            read_audio(tmp_path / name, RATE)
        assert "\n" not in str(error.value)


def test_long_files_are_refused_by_their_header(tmp_path):
    path = written(tmp_path / "a.flac", np.zeros(20 * RATE, np.int16))
    assert path.stat().st_size < 40_000
    with pytest.raises(AudioError, match="too long: 20 s, expected at most 10 s"):
        read_header(path, max_duration=10)
    with pytest.raises(AudioError, match="too long"):
        read_audio(path, RATE, max_duration=10)
    assert read_header(path.read_bytes()).duration == pytest.approx(20)


def test_rates_without_common_divisor_need_no_large_filter():
    wave = torch.from_numpy(tone(0.5, 44101))
    assert frequency(resample(wave, 44101, RATE)[1000:7000]) == pytest.approx(440, abs=1)
    assert resample(torch.zeros(768_000), 767_999, 16000).shape[-1] == pytest.approx(16000, abs=20)


def test_resampling_removes_frequencies_beyond_the_new_nyquist_rate():
    high = torch.from_numpy(tone(0.5, 48000, frequency=12000))
    assert float(resample(high, 48000, RATE)[500:-500].abs().max()) < 0.005
