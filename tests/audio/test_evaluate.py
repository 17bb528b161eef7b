"""Command `lumina evaluate` with an audio model and a folder of audio files."""

from __future__ import annotations

import json

import pytest
import soundfile
from audio.tones import tone
from making import make_model, registry_of

RECIPE = """
schema_version: 2
task: {type: audio.text_to_audio, duration: 0.512}
dataset: {type: audio.instruments}
autoencoder:
  type: audio.mel
  light_vae: {latent_channels: 4, hidden_size: 16}
  vocoder: {type: audio.griffin_lim, n_iter: 1}
  mel_std: 3.5
tokenizer: {type: audio.patchify}
conditioners:
  - field: caption
    type: core.text
    vocab_size: 300
    hidden_size: 16
    expand_dim: 16
    num_latents: 2
    context_dim: 16
    target_dim: 0
backbone: {type: core.next_dit, hidden_size: 16, num_layers: 1, num_heads: 1, rope_axes_dim: [16, 0, 0], multiple_of: 8}
head: {type: core.velocity}
objective: {type: core.flow_matching}
sampling: {steps: 1, solver: core.euler}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    return make_model(str(folder / "small.yaml"), folder / "model", registry_of("audio"))


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for index in range(6):
        soundfile.write(folder / f"{index}.wav", tone(200 + 60 * index, 8192)[0].numpy(), 16000)
        (folder / f"{index}.txt").write_text(f"tone number {index}\n", encoding="utf-8")
    return folder


def test_evaluation_on_a_folder_reports_each_metric(lumina, model, sounds, tmp_path):
    words = ("evaluate", model, "--dataset", sounds, "--out", tmp_path / "out", "--json")
    names = "audio.instrument_retrieval,audio.spectral_retrieval,audio.pitch,audio.class_kl"
    done = lumina(*words, "--metrics", names)
    assert done.status == 0, done.err
    output = json.loads(done.out)
    assert output["num_generated"] == 6 and output["scores"]["audio.class_kl"]["KL"]["value"] > 0
    assert output["scores"]["audio.instrument_retrieval"]["feature_extractor"] == "instrument classifier"
    assert set(output["scores"]["audio.pitch"]) == {"feature_extractor"}  # no prompt names a pitch
    assert (tmp_path / "out" / "samples.png").read_bytes()[1:4] == b"PNG"


def test_missing_weights_file_is_one_line(lumina, model, sounds):
    extractor = "audio.frechet.feature_extractor"
    settings = ("--set", f"{extractor}.type=audio.vggish", "--set", f"{extractor}.weights=nowhere.pth")
    done = lumina("evaluate", model, "--dataset", sounds, "--metrics", "audio.frechet", *settings)
    assert done.status == 1 and "nowhere.pth" in done.err and done.err.count("\n") == 1
