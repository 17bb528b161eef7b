"""Training of the tiny recipe, its samples, and the model that it saves."""

from __future__ import annotations

import pytest
from audio.read_files import samples
from PIL import Image

from lumina_audio.plot import GRID_GAP, N_MELS

SMALL = (
    "conditioners.0.vocab_size=300",
    "training.steps=2",
    "training.global_batch_size=2",
    "training.checkpoint_interval=2",
    "training.sample_interval=2",
    "sampling.steps=1",
)


@pytest.fixture(scope="module")
def settings():
    return [word for setting in SMALL for word in ("--set", setting)]


def test_training_saves_spectrograms_of_samples_and_a_model_that_generates(lumina, tmp_path, settings):
    done = lumina("train", "audio.tiny", "--out", tmp_path / "run", *settings)
    assert done.status == 0, done.err
    (sheet,) = (tmp_path / "run" / "samples").glob("*.png")
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.size[0] > 2 * 300 and picture.size[1] == N_MELS + GRID_GAP
    arguments = ("a trumpet", "--duration", 0.2, "--out", tmp_path / "a.wav", "--model", tmp_path / "run" / "model")
    assert lumina("audio", *arguments).status == 0 and len(samples(tmp_path / "a.wav")) == 3200


def test_a_dry_run_says_how_long_a_sound_is_and_what_its_tokens_are(lumina):
    output = lumina("check", "audio.tiny", "--set", "conditioners.0.vocab_size=300")
    assert output.status == 0 and "(1, 32768) -> tokens (32, 80)" in output.out
