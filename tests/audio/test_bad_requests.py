"""What cannot be asked of a model of sound: one line that says what came, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from lumina_core.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--duration", "0"), "duration: input should be greater than 0"),
        (("--duration", "-2"), "greater than 0"),
        (("--duration", "nan"), "duration"),
        (("--duration", "inf"), "finite"),
        (("--duration", "1000"), "GB of memory would be needed; up to 64 times are done"),
        (("--duration", "1e12", "--max-token-ratio", "1000000000000"), "memory would be needed, and this machine has"),
        (("--strength", "0.5"), "strength is about a sound to begin from"),
        (("--inpaint", "0-1"), "inpaint is about a sound"),
        (("--extend", "1"), "extend is about a sound"),
        (("--init-audio", "s.wav", "--strength", "1.5"), "less than or equal to 1"),
        (("--init-audio", "s.wav", "--strength", "nan"), "strength"),
        (("--init-audio", "s.wav", "--inpaint", "0.1-0.9"), "does not lie within a sound of 0.5 seconds"),
        (("--init-audio", "s.wav", "--inpaint", "0.3-0.2"), "to a later one"),
        (("--init-audio", "s.wav", "--inpaint=-1-0.2"), "START-END"),
        (("--init-audio", "s.wav", "--inpaint", "soon"), "START-END"),
        (
            ("--init-audio", "s.wav", "--inpaint", "0.1-0.2", "--inpaint", "0.3-0.9"),
            "the span 0.3-0.9 does not lie within",
        ),
        (("--init-audio", "s.wav", "--inpaint", "0.1-0.2,"), "START-END"),
        (("--init-audio", "s.wav", "--inpaint", "0.1-0.1000001"), "the span 0.1-0.1000001 holds no sample"),
        (("--init-audio", "s.wav", "--duration", "2"), "--extend"),
        (("--init-audio", "s.wav", "--duration", "2", "--extend", "1"), "leave out duration"),
        (("--init-audio", "s.wav", "--extend", "0"), "greater than 0"),
        (("--init-audio", "s.wav", "--crossfade", "5"), "which part with inpaint or extend"),
        (("--duration", "1e30", "--max-token-ratio", "3"), "1.6e+31 tokens"),
        (("--init-audio", "text.wav"), "mp3 ...): Format not recognised."),
        (("--init-audio", "empty.wav"), "empty file"),
        (("--init-audio", "cut.flac"), "cut.flac cannot be used as a sound: damaged or cut off"),
        (("--init-audio", "nan.wav"), "no numbers (NaN or infinite)"),
        (("--init-audio", "nowhere.wav"), "No such file"),
        (("--init-audio", "."), "it is a folder; name a file in it"),
        (("--scalar", "pitch=60"), "does not hear a number called 'pitch'"),
        (("--scalar", "pitch"), "NAME=VALUE"),
        (("--negative-prompt", "<rain& never>"), "unknown tag 'never'; the tags are start, mid, end, all"),
        (("--spectrogram", "out.wav"), "--spectrogram says out.wav"),
        (("--spectrogram", "nowhere/s.png"), "does not exist"),
    ],
)
def test_it_is_refused_in_one_line(ask, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    tone = 0.3 * np.sin(np.arange(8000) * 0.1)
    soundfile.write("s.wav", tone, 16000)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write("cut.flac", np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:5000])
    soundfile.write("nan.wav", np.where(np.arange(8000) == 5, np.nan, tone), 16000, subtype="FLOAT")
    done = ask("a cat", "--out", "out.flac", *options)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out.flac").exists()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "the prompt is empty; say what is heard"),
        ("  ", "the prompt is empty"),
        ("<rain& all>@<wind& sometimes>", "unknown tag 'sometimes'"),
        ("<rain& all", "is no structured caption; wanted <event& start>@<event& all>"),
    ],
)
def test_a_prompt_that_says_nothing_or_is_of_a_broken_form_is_refused_whoever_reads_it(ask, tmp_path, prompt, said):
    done = ask(prompt, "--out", tmp_path / "out.wav")
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1, done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["trumpet.mp3", "trumpet.png"])
def test_a_file_of_another_kind_is_not_written(ask, tmp_path, name):
    done = ask("a trumpet", "--out", tmp_path / name)
    assert done.status == 2 and "what is written are .wav or .flac or .ogg files" in done.err
    assert "try trumpet.wav" in done.err


def test_what_is_no_sound_is_said_so_in_python_too(session):
    for wrong in (3, "", torch.zeros(1, 8, dtype=torch.int16), torch.zeros(0), (torch.zeros(8), 0), {"a": 1}):
        with pytest.raises(ConfigError, match="sound"):
            session.make_request(prompt="x", init_audio=wrong)
    for wrong, said in {(100, 2): r"\(100, 2\) was given; turn it", (2, 100): "of 1 samples a second"}.items():
        with pytest.raises(ConfigError, match=said):
            session.make_request(
                prompt="x", init_audio=(torch.zeros(wrong), 1) if wrong[0] == 2 else torch.zeros(wrong)
            )
    with pytest.raises(ConfigError, match="leave the end out"):
        session.make_request(prompt="x", init_audio=torch.zeros(1, 800), inpaint=(0, float("inf")))
    with pytest.raises(ConfigError, match="no request was given"):
        session.generate([])


def test_a_silent_sound_to_begin_from_is_named(ask, tmp_path):
    soundfile.write(tmp_path / "quiet.wav", np.zeros(4800), 16000)
    done = ask("a cat", "--init-audio", tmp_path / "quiet.wav", "--steps", 1, "--out", tmp_path / "out.wav")
    assert done.status == 0 and "Note: quiet.wav is silent" in done.err
