"""Built-in audio model."""

from __future__ import annotations

import json

import pytest
import torch

from lumina_audio.metrics.pitch import estimate_pitch
from lumina_core.sampling.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained("audio.instruments")


@pytest.mark.parametrize(("prompt", "midi"), [("flute, A5", 81), ("church organ, C4", 60), ("violin, E5", 76)])
def test_generated_pitch_is_that_of_the_prompt(pipeline, prompt, midi):
    sound = pipeline(prompt=prompt, seed=1)[0].data
    assert float(estimate_pitch(sound[None])[0][0]) == pytest.approx(midi, abs=1)


def test_result_depends_on_the_prompt_and_repeats_exactly(pipeline):
    first, again, other = (pipeline(prompt=words, seed=1)[0].data for words in ("flute, A5", "flute, A5", "gunshot"))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.01)


def test_command_generates_the_requested_duration(lumina, tmp_path):
    done = lumina("audio", "a harp", "--duration", 1.5, "--seed", 1, "--out", tmp_path / "harp.wav", "--json")
    assert done.status == 0
    output = json.loads(done.out)
    assert output["duration"] == 1.5 and output["generation_seconds"] > 0
    assert (tmp_path / "harp.wav").stat().st_size > 2 * 16000 * 1.5


def test_a_sound_in_bfloat16_is_near_that_in_float32():
    # the autoencoder and the vocoder convert between the latent's dtype and that of their weights
    pipes = [Pipeline.from_pretrained("audio.instruments", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    expected, result = (pipe("a piano plays a middle C", steps=4, seed=1)[0].data for pipe in pipes)
    assert result.dtype == torch.float32
    ratio = result.square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0.5 < float(ratio) < 2
