"""Pictures of sounds: pitch stands where it is, the louder the lighter, and any sound can be drawn."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from audio.tones import tone
from PIL import Image

from lumina_audio.audio_io import write_audio
from lumina_audio.plot import N_MELS, colormap, mel_decibels, plot_grid, plot_spectrogram
from lumina_audio.task import TextToAudio


def sine(hertz: float, rate: int = 16000, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate)) / rate)[None]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_sine_is_brightest_in_the_band_of_its_pitch_and_at_full_scale_0_decibels(rate):
    found = [int(mel_decibels(sine(hertz, rate), rate, 100).mean(dim=1).argmax()) for hertz in (200, 800, 3000)]
    assert found == sorted(found) and len(set(found)) == 3
    # Slaney's scale: 800 Hz is 12 mel, and a band is the whole range over their number
    top = 15 + 27 * np.log(rate / 2000) / np.log(6.4)
    assert found[1] == pytest.approx(12 / top * N_MELS, abs=2)
    assert -8 < float(mel_decibels(sine(400, rate), rate, 100).max()) < 0.5


def test_colours_grow_lighter_from_silence_to_the_loudest():
    light = colormap().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -0.5).all() and light[0] < 15 and light[-1] > 245


def test_the_picture_is_light_where_there_is_sound_and_dark_where_there_is_none():
    half = torch.cat([sine(1000), torch.zeros(1, 16000)], dim=1)
    picture = np.asarray(plot_spectrogram(half, 16000, "half a sound").convert("L")).astype(float)
    assert picture[110:380, 80:430].max() > 200
    assert picture[110:380, 520:850].max() < 60


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.5, 61.0])
@pytest.mark.parametrize("level", [0.0, 1e-6, 40.0])
def test_any_sound_can_be_drawn(seconds, level):
    assert plot_spectrogram(level * sine(440, seconds=seconds), 16000, "x" * 500).size == (960, 440)


def test_samples_that_are_no_number_and_many_channels_can_be_drawn_too():
    wild = torch.full((2, 4000), float("nan"))
    assert plot_spectrogram(wild, 16000, "日本 🎺").size == (960, 440)


def test_a_sheet_shows_all_sounds_each_as_wide_as_it_is_long(tmp_path):
    sounds = [tone(220.0, 8000), tone(330.0, 4000), *[tone(440.0, 8000)] * 4]
    assert plot_grid(sounds, 16000).size == (4 * 306 + 6, 2 * 156 + 6)
    picture = np.asarray(plot_grid(sounds[:2], 16000).convert("L"))
    assert picture[6:150, 6 + 306 + 160 :].max() == picture[0, 0]
    path = TextToAudio(TextToAudio.Config()).save_grid(sounds, tmp_path / "grid", "step-1")
    with Image.open(path) as image:
        assert path.name == "step-1.png" and image.format == "PNG"


def test_the_command_draws_any_sound_beside_it(lumina, tmp_path):
    soundfile.write(tmp_path / "mine.flac", np.stack([tone(300.0, 4410, 44100)[0]] * 2, axis=1), 44100)
    done = lumina("spectrogram", tmp_path / "mine.flac")
    assert (done.status, done.out, done.err) == (0, f"{tmp_path / 'mine.png'}\n", "")
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.size == (960, 440)


def test_a_sound_of_ours_is_drawn_under_its_prompt(lumina, tmp_path):
    for name, prompt in (("a", "a trumpet"), ("b", "a trumpet"), ("c", "a harp")):
        write_audio(tmp_path / f"{name}.wav", tone(300.0), 16000, {"prompt": prompt})
        lumina("spectrogram", tmp_path / f"{name}.wav", "--out", tmp_path / f"{name}.png")
    one, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == same != other
    lumina("spectrogram", tmp_path / "c.wav", "--title", "a trumpet")
    assert (tmp_path / "c.png").read_bytes() == one


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("text.wav",), "cannot be used as a sound"),
        (("no.wav",), "cannot be"),
        (("s.wav", "--out", "s.jpg"), "try s.png"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(lumina, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write("s.wav", np.zeros(100), 16000)
    done = lumina("spectrogram", *arguments)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1
