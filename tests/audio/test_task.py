"""Command `lumina audio` and task text-to-audio, with a tiny model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from audio.read_files import rate, record, samples
from making import CAPTIONS, registry_of
from PIL import Image

from lumina_audio.request import TextToAudioRequest
from lumina_audio.task import TextToAudio
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.recipe import Recipe
from lumina_core.sampling.pipeline import Pipeline

FAST = ("--steps", 2)


def test_prompt_becomes_a_file_of_the_default_duration_with_its_metadata(run_audio, tmp_path):
    out = tmp_path / "trumpet.wav"
    done = run_audio("a trumpet plays a high note", "--out", out, "--seed", 1)
    assert (done.status, done.out) == (0, f"{out}\n")
    assert (len(samples(out)), rate(out)) == (32768, 16000)
    usual = {"steps": 8, "solver": "core.midpoint", "schedule": "core.uniform_schedule", "guidance_scale": 2.0}
    output = record(out)
    assert (output["prompt"], output["seed"], output["settings"]) == ("a trumpet plays a high note", 1, usual)
    assert os.listdir(tmp_path) == ["trumpet.wav"]


@pytest.mark.parametrize(("suffix", "kind"), [(".wav", "RIFF"), (".flac", "fLaC"), (".ogg", "OggS"), (".WAV", "RIFF")])
@pytest.mark.parametrize("seconds", [0.3, 1.00003])
def test_file_has_the_requested_duration_and_the_format_of_its_suffix(run_audio, tmp_path, suffix, kind, seconds):
    out = tmp_path / f"a{suffix}"
    assert run_audio("a drum", "--duration", seconds, "--out", out, *FAST).status == 0
    assert out.read_bytes()[:4].decode() == kind
    assert len(samples(out)) == round(seconds * 16000)
    assert record(out)["duration"] == seconds


def test_all_options_together_are_stored_in_the_file_and_printed_as_json(run_audio, tmp_path):
    pytest.importorskip("matplotlib")
    options = [
        "--duration",
        0.5,
        "--count",
        3,
        "--steps",
        3,
        "--solver",
        "heun",
        "--schedule",
        "shift",
        "--guidance-scale",
        3,
    ]
    more = [
        "--guidance-interval",
        "0.1,0.8",
        "--guidance-rescale",
        0.5,
        "--rope-scaling",
        "ntk",
        "--base-sequence-length",
        32,
    ]
    arguments = [*options, *more, "--context-drop", "time_aware", "--negative-prompt", "a drum", "--seed", 4]
    done = run_audio("a harp", "--out", tmp_path / "h.flac", *arguments, "--spectrogram", "auto", "--json")
    output = json.loads(done.out.splitlines()[-1])
    items = output["items"]
    assert [Path(item["path"]).name for item in items] == ["h-0.flac", "h-1.flac", "h-2.flac"]
    assert [Path(item["spectrogram"]).name for item in items] == ["h-0.png", "h-1.png", "h-2.png"]
    assert (
        [item["seed"] for item in items] == [4, 5, 6] and output["nfe"] == 6 and output["negative_prompt"] == "a drum"
    )
    settings = output["settings"]
    assert (settings["rope_scaling"], settings["base_sequence_length"]) == ("core.ntk", 32) or settings[
        "rope_scaling"
    ] == "ntk"
    assert settings["context_drop"].endswith("time_aware") and settings["guidance_rescale"] == 0.5
    assert record(items[2]["path"])["seed"] == 6 and record(items[0]["path"])["settings"] == settings
    with Image.open(items[0]["spectrogram"]) as picture:
        assert (picture.format, picture.size) == ("PNG", (960, 440))


def test_same_request_gives_the_same_bytes(run_audio, tmp_path):
    for name in "ab":
        run_audio("a trumpet", "--duration", 0.4, "--out", tmp_path / f"{name}.wav", "--seed", 3, *FAST)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 4), ("--negative-prompt", "blue cat"), ("--guidance-scale", 1), ("--guidance-scale", 5),
        ("--schedule", "shift"),
        ("--steps", 3), ("--guidance-interval", "0.2,0.6"), ("--context-drop", "time_aware"),
        *(("--solver", name) for name in ("euler", "heun", "heun3", "rk4", "adams", "dpmpp", "sde")),
    ],
)  # fmt: skip
def test_each_option_changes_the_audio(run_audio, tmp_path, options):
    arguments = ("red heart", "--duration", 0.3, *FAST)
    run_audio(*arguments, "--out", tmp_path / "plain.wav")
    assert run_audio(*arguments, "--out", tmp_path / "other.wav", *options).status == 0
    assert (samples(tmp_path / "plain.wav") != samples(tmp_path / "other.wav")).any()


@pytest.mark.parametrize("name", ["interpolation", "ntk", "frequency_aware", "time_aware", "watershed", "yarn", "dype"])
def test_four_times_the_training_duration_works_with_each_rope_scaling(run_audio, tmp_path, name):
    arguments = ("a cello", "--duration", 8, "--seed", 1, *FAST)
    plain, scaled = tmp_path / "plain.wav", tmp_path / "scaled.wav"
    assert run_audio(*arguments, "--out", plain).status == 0
    done = run_audio(*arguments, "--out", scaled, "--rope-scaling", name, "--base-sequence-length", 32)
    assert done.status == 0 and len(samples(scaled)) == 128000
    assert (samples(plain) != samples(scaled)).any()


def test_guide_model_replaces_the_null_condition(run_audio, tiny_folder, tmp_path):
    arguments = ("a cello", "--duration", 0.3, "--guidance-scale", 3, *FAST)
    run_audio(*arguments, "--out", tmp_path / "plain.wav")
    assert run_audio(*arguments, "--out", tmp_path / "led.wav", "--guide-model", tiny_folder).status == 0
    run_audio("a cello", "--duration", 0.3, "--guidance-scale", 1, *FAST, "--out", tmp_path / "message.wav")
    # a model that is led away from itself says what it says alone
    apart = samples(tmp_path / "led.wav").astype(int) - samples(tmp_path / "message.wav")
    assert abs(apart).max() <= 40
    assert (samples(tmp_path / "plain.wav") != samples(tmp_path / "led.wav")).any()


def test_prompts_of_a_file_give_the_same_results_as_single_prompts(run_audio, tmp_path):
    prompts = ["a trumpet", "日本の笛", "a very much longer prompt about a house and the moon"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    pytest.importorskip("matplotlib")
    out, pictures = tmp_path / "sounds.v1", tmp_path / "pictures"
    arguments = ("--duration", 0.3, "--seed", 10, *FAST)
    done = run_audio("--prompts", tmp_path / "prompts.txt", "--out", out, *arguments, "--spectrogram", pictures)
    assert done.status == 0
    assert sorted(os.listdir(out)) == [f"{index:05d}.wav" for index in range(3)]
    assert sorted(os.listdir(pictures)) == [f"{index:05d}.png" for index in range(3)]
    run_audio(prompts[2], "--out", tmp_path / "one.wav", "--duration", 0.3, "--seed", 12, *FAST)
    one, together = (samples(path).astype(int) for path in (tmp_path / "one.wav", out / "00002.wav"))
    assert abs(one - together).max() <= 60
    assert record(out / "00001.wav")["prompt"] == prompts[1]


def test_preview_writes_intermediate_files(run_audio, tmp_path):
    done = run_audio("a drum", "--duration", 0.3, "--steps", 4, "--preview", 2, "--out", tmp_path / "d.wav", "--json")
    assert json.loads(done.out.splitlines()[-1])["items"][0]["preview"] == str(tmp_path / "d-steps")
    assert sorted(os.listdir(tmp_path / "d-steps")) == ["002.wav", "004.wav"]
    assert len(samples(tmp_path / "d-steps" / "002.wav")) == 4800
    assert np.array_equal(samples(tmp_path / "d-steps" / "004.wav"), samples(tmp_path / "d.wav"))
    assert record(tmp_path / "d-steps" / "002.wav")["preview"] == {"step": 2, "steps": 4, "time": 0.5}


def test_help_lists_examples_and_options(lumina):
    output = lumina("audio", "--help")
    assert output.status == 0
    assert '  lumina audio "a trumpet plays a high note" --duration 2 --out trumpet.wav\n' in output.out
    for option in (
        "--duration",
        "--init-audio",
        "--strength",
        "--inpaint START-END",
        "--extend",
        "--crossfade",
        "--spectrogram",
    ):
        assert option in output.out
    assert "heart.png" not in output.out
    assert (
        "name of the result.  [default" in output.out and output.out.count("[PROMPT]") == 1
    )  # in the usage, not among options


@pytest.mark.parametrize(("format", "start"), [("wav", b"RIFF"), (".FLAC", b"fLaC"), ("ogg", b"OggS"), ("", b"RIFF")])
def test_encode_returns_the_bytes_that_save_writes(tmp_path, format, start):
    task, item = TextToAudio(TextToAudio.Config()), 0.1 * torch.randn(1, 4000)
    content = task.encode(item, format, {"prompt": "x", "seed": 3})
    suffix = f".{format.lower().removeprefix('.') or 'wav'}"
    task.save(item, tmp_path / f"a{suffix}", {"prompt": "x", "seed": 3})
    assert content[:4] == start and record(tmp_path / f"a{suffix}") == {"prompt": "x", "seed": 3}
    if suffix != ".ogg":  # an Ogg stream has a random serial number
        assert content == (tmp_path / f"a{suffix}").read_bytes()
    with pytest.raises(ConfigError, match=r"expected \.wav or \.flac or \.ogg"):
        task.encode(item, "m4a", {})


def test_spectrogram_without_matplotlib_is_refused_before_generation(run_audio, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_audio("a drum", *FAST, "--out", tmp_path / "a.wav", "--spectrogram", "auto")
    assert done.status == 1 and "pip install" in done.err and not list(tmp_path.iterdir())


def test_scalar_conditioners_get_the_duration_and_requested_values():
    task = TextToAudio(TextToAudio.Config(scalars=("duration", "pitch")))
    request = TextToAudioRequest.read({"prompt": "x", "duration": 1.5, "scalar": "pitch=60"}, "request")
    assert task.conditions(request) == {"caption": ["x"], "duration": [1.5], "pitch": [60.0]}
    assert task.conditions(TextToAudioRequest(prompt="x")) == {"caption": ["x"], "duration": [2.048], "pitch": [None]}
    assert task.request_for({"caption": "x", "pitch": 60, "label": 3}) == {"prompt": "x", "scalar": {"pitch": 60}}


def test_scalar_conditioners_change_the_result():
    registry = registry_of("audio")
    recipe = Recipe.load("audio.tiny", ("task.scalars=[duration, pitch]",), registry)
    numbers = [
        ComponentSpec(field="duration", type="core.scalar", max=10.0),
        ComponentSpec(field="pitch", type="core.scalar", max=127.0),
    ]
    torch.manual_seed(0)
    model = build_model(recipe.model_copy(update={"conditioners": (*recipe.conditioners, *numbers)}), registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.conditioners_by_field["caption"].fit(CAPTIONS)
    pipeline = Pipeline(model, registry)

    def generated(**arguments):
        return pipeline(prompt="red heart", duration=0.3, steps=2, **arguments)[0].data

    assert float((generated(scalar={"pitch": 60}) - generated()).abs().max()) > 1e-4
    assert float((generated(scalar="pitch=60") - generated(scalar="pitch=61")).abs().max()) > 1e-4
    requests = [
        pipeline.make_request(prompt="red heart", duration=s, steps=2, scalar={"pitch": 60}) for s in (0.3, 0.7)
    ]
    both = pipeline(requests)
    assert float((both[0].data - generated(scalar={"pitch": 60})).abs().max()) < 1e-3 * float(both[0].data.abs().max())
    with pytest.raises(ConfigError, match="from 0 to 127"):
        generated(scalar="pitch=200")


def test_sample_rate_of_the_task_is_that_of_the_autoencoder():
    registry, slow = (
        registry_of("audio"),
        ("mel.sample_rate=8000", "mel.f_max=4000", "vocoder.sample_rate=8000", "vocoder.f_max=4000"),
    )
    settings = tuple(f"autoencoder.{setting}" for setting in slow)
    assert build_model(Recipe.load("audio.tiny", settings, registry), registry).task.config.sample_rate == 8000
    with pytest.raises(ConfigError, match=r"task\.sample_rate: got 16000, expected 8000"):
        build_model(Recipe.load("audio.tiny", (*settings, "task.sample_rate=16000"), registry), registry)
