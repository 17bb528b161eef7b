"""Invalid requests to audio models: one line, and no file."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from lumina_core.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--duration", "0"), "duration: got 0"),
        (("--duration", "-2"), "greater than 0"),
        (("--duration", "nan"), "duration"),
        (("--duration", "inf"), "finite"),
        (("--duration", "1000"), "GB of memory, expected at most 64 times. Request less"),
        (("--duration", "1000"), "Error: --duration: got 1000 seconds, which is"),
        (("--duration", "1e12", "--max-token-ratio", "1000000000000"), "of memory, expected at most"),
        (("--strength", "0.5"), "strength: needs init_audio"),
        (("--inpaint", "0-1"), "inpaint: needs init_audio"),
        (("--extend", "1"), "extend: needs init_audio"),
        (("--init-audio", "s.wav", "--strength", "1.5"), "less than or equal to 1"),
        (("--init-audio", "s.wav", "--strength", "nan"), "strength"),
        (("--init-audio", "s.wav", "--inpaint", "0.1-0.9"), "expected a span within the 0.5 s of init_audio"),
        (("--init-audio", "s.wav", "--inpaint", "0.3-0.2"), "Error: --inpaint: got 0.3-0.2, expected START < END"),
        (("--init-audio", "s.wav", "--inpaint=-1-0.2"), "START-END"),
        (("--init-audio", "s.wav", "--inpaint", "soon"), "START-END"),
        (
            ("--init-audio", "s.wav", "--inpaint", "0.1-0.2", "--inpaint", "0.3-0.9"),
            "inpaint: got 0.3-0.9, expected a span within",
        ),
        (("--init-audio", "s.wav", "--inpaint", "0.1-0.2,"), "START-END"),
        (
            ("--init-audio", "s.wav", "--inpaint", "0.1-0.1000001"),
            "inpaint: got 0.1-0.1000001, expected at least one sample",
        ),
        (("--init-audio", "s.wav", "--duration", "2"), "set --extend 1.5"),
        (("--init-audio", "s.wav", "--duration", "2", "--extend", "1"), "got both duration and extend"),
        (("--init-audio", "s.wav", "--extend", "0"), "greater than 0"),
        (("--init-audio", "s.wav", "--crossfade", "5"), "crossfade: needs inpaint or extend"),
        (("--duration", "1e30", "--max-token-ratio", "3"), "1.6e+31 tokens"),
        (("--init-audio", "text.wav"), "mp3 ...): Format not recognised."),
        (("--init-audio", "empty.wav"), "empty file"),
        (("--init-audio", "cut.flac"), "cut.flac cannot be used as audio: damaged or truncated"),
        (("--init-audio", "nan.wav"), "1 samples are NaN or infinite"),
        (("--init-audio", "nowhere.wav"), "No such file"),
        (("--init-audio", "."), "it is a folder; name a file in it"),
        (
            ("--scalar", "pitch=60"),
            "scalar: got 'pitch', expected a scalar conditioner of the model, but this model has none",
        ),
        (("--scalar", "pitch"), "NAME=VALUE"),
        (
            ("--negative-prompt", "<rain& never>"),
            "tag of a structured caption: got 'never', expected one of start, mid, end, all",
        ),
        (("--prompts", "s.wav"), "give either PROMPT or --prompts FILE"),
        (("dog",), "Got unexpected extra argument (dog). Put a text of several words in quotes"),
        (("--spectrogram", "out.wav"), "--spectrogram: got out.wav, expected .png"),
        (("--spectrogram", "nowhere/s.png"), "does not exist"),
    ],
)
def test_bad_option_is_refused_in_one_line(run_audio, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    tone = 0.3 * np.sin(np.arange(8000) * 0.1)
    soundfile.write("s.wav", tone, 16000)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write("cut.flac", np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:5000])
    soundfile.write("nan.wav", np.where(np.arange(8000) == 5, np.nan, tone), 16000, subtype="FLOAT")
    done = run_audio("a cat", "--out", "out.flac", *options)
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out.flac").exists()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "got an empty text, expected a description of the audio"),
        ("  ", "got an empty text"),
        ("<rain& all>@<wind& sometimes>", "got 'sometimes', expected one of start, mid, end, all"),
        ("<rain& all", "expected <event& start>@<event& all>"),
    ],
)
def test_empty_or_malformed_prompt_is_refused(run_audio, tmp_path, prompt, message):
    done = run_audio(prompt, "--out", tmp_path / "out.wav")
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["trumpet.m4a", "trumpet.png"])
def test_unsupported_suffix_is_refused(run_audio, tmp_path, name):
    done = run_audio("a trumpet", "--out", tmp_path / name)
    assert done.status == 2 and "expected .wav or .flac or .ogg" in done.err
    assert "for example trumpet.wav" in done.err


def test_what_is_no_sound_is_said_so_in_python_too(pipeline):
    for wrong in (3, "", torch.zeros(1, 8, dtype=torch.int16), torch.zeros(0), (torch.zeros(8), 0), {"a": 1}):
        with pytest.raises(ConfigError, match="init_audio"):
            pipeline.make_request(prompt="x", init_audio=wrong)
    for wrong, message in {
        (100, 2): r"got shape \(100, 2\).* Transpose it",
        (2, 100): "sample rate of audio: got 1,",
    }.items():
        with pytest.raises(ConfigError, match=message):
            pipeline.make_request(
                prompt="x", init_audio=(torch.zeros(wrong), 1) if wrong[0] == 2 else torch.zeros(wrong)
            )
    with pytest.raises(ConfigError, match=r"expected START < END|expected a finite number"):
        pipeline.make_request(prompt="x", init_audio=torch.zeros(1, 800), inpaint=(0, float("inf")))
    with pytest.raises(ConfigError, match="prompt: got an empty list"):
        pipeline([])


def test_silent_init_audio_has_a_note(run_audio, tmp_path):
    soundfile.write(tmp_path / "quiet.wav", np.zeros(4800), 16000)
    done = run_audio("a cat", "--init-audio", tmp_path / "quiet.wav", "--steps", 1, "--out", tmp_path / "out.wav")
    assert done.status == 0 and "Note: quiet.wav is silent" in done.err
