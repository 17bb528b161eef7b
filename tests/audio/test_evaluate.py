"""Models of sound are judged by the same command as all others: on a folder of sounds, with a sheet to look at."""

from __future__ import annotations

import json

import pytest
import soundfile
from audio.sounds_made import tone
from making import make_model, registry_of

RECIPE = """
lumina: 1
task: {use: audio.text_to_audio, seconds: 0.512}
dataset: {use: audio.instruments}
autoencoder:
  {use: audio.mel, light: {channels: 4, width: 16}, vocoder: {use: audio.griffin_lim, rounds: 1}, spread: 3.5}
tokenizer: {use: audio.frames}
conditioners:
  - {name: caption, use: core.text, vocabulary: 300, width: 16, hidden: 16, slots: 2, memory: 16, foretold: 0}
backbone: {use: core.next_dit, width: 16, depth: 1, heads: 1, axes: [16, 0, 0], multiple_of: 8}
head: {use: core.velocity}
objective: {use: core.flow_matching}
sampling: {steps: 1, solver: core.euler}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    return make_model(str(folder / "small.yaml"), folder / "model", registry_of("audio"))


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for place in range(6):
        soundfile.write(folder / f"{place}.wav", tone(200 + 60 * place, 8192)[0].numpy(), 16000)
        (folder / f"{place}.txt").write_text(f"tone number {place}\n", encoding="utf-8")
    return folder


def test_sounds_of_a_folder_are_asked_for_again_and_every_metric_that_works_is_told(lumina, model, sounds, tmp_path):
    words = ("evaluate", model, "--data", sounds, "--out", tmp_path / "out", "--json")
    names = "audio.instrument_retrieval,audio.spectral_retrieval,audio.pitch,audio.class_divergence"
    done = lumina(*words, "--metrics", names)
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["made"] == 6 and told["scores"]["audio.class_divergence"]["KL"]["value"] > 0
    assert told["scores"]["audio.instrument_retrieval"]["features"] == "instrument classifier"
    assert set(told["scores"]["audio.pitch"]) == {"features"}  # no prompt names a pitch
    assert (tmp_path / "out" / "sheet.png").read_bytes()[1:4] == b"PNG"


def test_features_that_need_a_file_say_so(lumina, model, sounds):
    done = lumina(
        "evaluate", model, "--data", sounds, "--metrics", "audio.frechet", "--set",
        "audio.frechet.features.use=audio.vggish", "--set", "audio.frechet.features.weights=nowhere.pth",
    )  # fmt: skip
    assert done.status == 1 and "nowhere.pth" in done.err and done.err.count("\n") == 1
