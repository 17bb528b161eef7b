"""Spectrogram plots: frequencies lie where they belong, any audio can be plotted, and matplotlib is optional."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from audio.tones import tone
from PIL import Image

from lumina_audio.audio_io import write_audio
from lumina_audio.plot import GRID_CELL_WIDTH, GRID_GAP, N_MELS, mel_decibels, plot_spectrogram
from lumina_audio.task import TextToAudio


def sine(hertz: float, rate: int = 16000, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate)) / rate)[None]


def grayscale(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(float)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_full_scale_sine_peaks_in_its_mel_band_at_0_decibels(rate):
    found = [int(mel_decibels(sine(hertz, rate), rate, rate // 100).mean(dim=1).argmax()) for hertz in (200, 800, 3000)]
    assert found == sorted(found) and len(set(found)) == 3
    # Slaney's scale: 800 Hz is 12 mel, and a band is the full range divided by the number of bands
    top = 15 + 27 * np.log(rate / 2000) / np.log(6.4)
    assert found[1] == pytest.approx(12 / top * N_MELS, abs=2)
    assert -8 < float(mel_decibels(sine(400, rate), rate, rate // 100).max()) < 0.5


def test_grid_shows_each_clip_at_its_length(tmp_path):
    clips = [tone(220.0, 8000), tone(330.0, 4000), *[tone(440.0, 8000)] * 4]
    path = TextToAudio(TextToAudio.Config()).save_grid(clips, tmp_path / "grid", "step-1")
    assert path == tmp_path / "grid" / "step-1.png"
    grid = grayscale(path)
    cell = (N_MELS + GRID_GAP, grid.shape[1] // 4)
    assert grid.shape[0] == 2 * cell[0] and cell[1] == pytest.approx(GRID_CELL_WIDTH + GRID_GAP, abs=12)
    half = cell[1] + (cell[1] - GRID_GAP) // 2
    assert grid[:N_MELS, cell[1] : half - 4].min() > 0 and grid[:N_MELS, half + 4 : 2 * cell[1]].max() == 0
    assert grid[cell[0] :, 2 * cell[1] :].max() == 0


def test_matplotlib_is_not_imported_by_the_task_and_a_missing_one_names_the_command_that_installs_it(tmp_path):
    code = (
        "import sys, lumina_audio.task, lumina_audio.plugin; assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "from lumina_core.cli.main import main\n"
        f"sys.argv = ['lumina', 'spectrogram', {str(tmp_path / 'a.wav')!r}]\n"
        "main()"
    )
    soundfile.write(tmp_path / "a.wav", tone(300.0)[0].numpy(), 16000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install" in done.stderr, done.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


def test_plot_is_light_during_sound_and_dark_during_silence(matplotlib, tmp_path):
    half = torch.cat([sine(1000), torch.zeros(1, 16000)], dim=1)
    plot_spectrogram(half, 16000, tmp_path / "a.png", "half a second of sound")
    image = grayscale(tmp_path / "a.png")
    assert image.shape == (440, 960)
    assert image[110:380, 80:430].max() > 200
    assert image[110:380, 520:850].max() < 60


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.5, 61.0])
@pytest.mark.parametrize("level", [0.0, 1e-6, 40.0])
def test_any_duration_and_level_can_be_plotted(matplotlib, tmp_path, seconds, level):
    plot_spectrogram(level * sine(440, seconds=seconds), 16000, tmp_path / "a.png", "x" * 500)
    assert grayscale(tmp_path / "a.png").shape == (440, 960)


@pytest.mark.filterwarnings("error")
def test_nan_samples_several_channels_and_any_script_can_be_plotted(matplotlib, tmp_path):
    plot_spectrogram(torch.full((2, 4000), float("nan")), 16000, tmp_path / "a.png", "日本 🎺 $x_1$ $")
    assert grayscale(tmp_path / "a.png").shape == (440, 960)


def test_command_writes_the_plot_beside_the_audio_file(matplotlib, lumina, tmp_path):
    soundfile.write(tmp_path / "mine.flac", np.stack([tone(300.0, 4410, 44100)[0]] * 2, axis=1), 44100)
    done = lumina("spectrogram", tmp_path / "mine.flac")
    assert (done.status, done.out, done.err) == (0, f"{tmp_path / 'mine.png'}\n", "")
    assert grayscale(tmp_path / "mine.png").shape == (440, 960)


def test_title_is_the_prompt_stored_in_the_file(matplotlib, lumina, tmp_path):
    for name, prompt in (("a", "a trumpet"), ("b", "a trumpet"), ("c", "a harp")):
        write_audio(tmp_path / f"{name}.wav", tone(300.0), 16000, {"prompt": prompt})
        lumina("spectrogram", tmp_path / f"{name}.wav", "--out", tmp_path / f"{name}.png")
    first, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == same != other
    lumina("spectrogram", tmp_path / "c.wav", "--title", "a trumpet", "--overwrite")
    assert (tmp_path / "c.png").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text.wav",), "not a readable audio file"),
        (("no.wav",), "No such file"),
        (("s.wav", "--out", "s.jpg"), "Try s.png"),
    ],
)
def test_command_rejects_bad_input_in_one_line(lumina, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write("s.wav", np.zeros(100), 16000)
    done = lumina("spectrogram", *arguments)
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1


def test_letters_without_a_font_are_left_out_and_others_are_drawn(matplotlib):
    from lumina_audio.plot import _drawable_title

    text, families = _drawable_title("eine Flöte, флейта, Größe")
    assert text == "eine Flöte, флейта, Größe" and families == []
    text, families = _drawable_title("x\U0010ffff\ue0ff")
    assert text == "x"


def test_command_replaces_no_file_unasked(matplotlib, lumina, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    (tmp_path / "a.png").write_text("mine")
    done = lumina("spectrogram", tmp_path / "a.wav")
    assert done.status == 2 and "--overwrite" in done.err and (tmp_path / "a.png").read_text() == "mine"
    assert lumina("spectrogram", tmp_path / "a.wav", "--overwrite").status == 0
