"""Audio-to-audio, inpainting, extension, and batches of several lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from audio.read_files import record, samples
from audio.tones import tone

from lumina_audio.inpaint_input import crossfade_mask, init_data
from lumina_audio.request import AudioLengthRequest
from lumina_core.errors import ConfigError
from lumina_core.sampling.generate import generate_batch

RATE = 16000


def one(pipeline, **arguments):
    return pipeline(prompt="red heart", **{"seed": 1, "steps": 3, **arguments})[0]


def changed(generated, sound) -> list[int]:
    """First and last sample that differ, of what both have."""
    there = min(generated.shape[-1], sound.shape[-1])
    indices = (generated[0, :there] != sound[0, :there]).nonzero()[:, 0]
    return [] if not len(indices) else [int(indices[0]), int(indices[-1])]


def test_strength_0_returns_the_input_without_network_evaluations(pipeline):
    generated = one(pipeline, init_audio=tone(300.0, 7001), strength=0)
    assert generated.metadata["nfe"] == 0
    assert torch.equal(generated.data, tone(300.0, 7001))


def test_strength_1_equals_text_to_audio_with_the_same_seed(pipeline):
    generated = one(pipeline, init_audio=tone(300.0, 8192), strength=1)
    assert torch.equal(generated.data, one(pipeline, duration=8192 / RATE).data)


def test_nfe_grows_with_strength_and_the_result_depends_on_the_input(pipeline):
    generated = [one(pipeline, init_audio=tone(300.0), strength=strength, steps=5) for strength in (0.3, 0.6, 0.9)]
    assert [answer.metadata["nfe"] for answer in generated] == [4, 6, 10]
    other = one(pipeline, init_audio=tone(500.0), strength=0.6, steps=5)
    assert float((other.data - generated[1].data).abs().max()) > 1e-3


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4", "adams", "dpmpp", "sde"])
@pytest.mark.parametrize("strength", [1, 0.7])
def test_inpainting_keeps_the_rest_exactly_with_every_solver(pipeline, solver, strength):
    sound = tone(300.0, 9000)
    generated = one(pipeline, init_audio=sound, inpaint="0.2-0.31", solver=solver, strength=strength).data
    first, last = changed(generated, sound)
    assert 3200 <= first < 3210 and 4950 < last < 4960
    assert float((generated[0, 3400:4800] - sound[0, 3400:4800]).abs().mean()) > 1e-3


def test_span_may_begin_or_end_with_the_clip(pipeline):
    sound = tone(300.0, 8000)
    assert changed(one(pipeline, init_audio=sound, inpaint="0.3-").data, sound)[1] == 7999
    first, last = changed(one(pipeline, init_audio=sound, inpaint=(0, 0.1)).data, sound)
    assert first < 5 and 1500 < last < 1600


def test_several_spans_are_inpainted_and_the_rest_is_kept_exactly(pipeline):
    sound = tone(300.0, 9000)
    generated = one(pipeline, init_audio=sound, inpaint=["0.1-0.2", "0.3-0.4"]).data
    stays, differs = (sound == generated)[0], (sound - generated)[0].abs()
    assert bool(stays[:1600].all()) and bool(stays[3200:4800].all()) and bool(stays[6400:].all())
    assert float(differs[1800:3000].mean()) > 1e-3 and float(differs[5000:6200].mean()) > 1e-3
    assert torch.equal(one(pipeline, init_audio=sound, inpaint="0.1-0.2,0.3-0.4").data, generated)
    assert torch.equal(one(pipeline, init_audio=sound, inpaint=((0.1, 0.2), (0.3, 0.4))).data, generated)


@pytest.mark.parametrize("one", ["0.5-1.2", (0.5, 1.2), [0.5, 1.2], ["0.5-1.2"], [(0.5, 1.2)]])
def test_span_is_parsed_from_every_form(one):
    assert AudioLengthRequest(init_audio=tone(300.0), inpaint=one).inpaint == ((0.5, 1.2),)


def test_extension_keeps_the_input_exactly(pipeline):
    sound = tone(300.0, 7001)
    generated = one(pipeline, init_audio=sound, extend=0.25).data
    assert generated.shape == (1, 7001 + 4000)
    assert changed(generated, sound) == []
    other = one(pipeline, init_audio=sound, extend=0.25, seed=2).data
    assert float((generated - other)[:, 7200:].abs().max()) > 1e-3


def test_extension_depends_on_the_input(pipeline):
    low, high = (one(pipeline, init_audio=tone(pitch, 8192), extend=0.5).data[:, 9000:] for pitch in (200.0, 900.0))
    assert float((low - high).abs().max()) > 1e-3


def test_shorter_duration_uses_the_beginning_of_the_input(pipeline):
    generated = one(pipeline, init_audio=tone(300.0, 8000), duration=0.25, strength=0)
    assert torch.equal(generated.data, tone(300.0, 8000)[:, :4000])


def test_input_is_resampled_and_mixed_to_mono(pipeline, tmp_path):
    stereo = np.stack([tone(300.0, 44100, 44100)[0], tone(300.0, 44100, 44100)[0]], axis=1)
    soundfile.write(tmp_path / "s.flac", stereo, 44100)
    generated = one(pipeline, init_audio=tmp_path / "s.flac", strength=0).data
    assert generated.shape == (1, 16000)
    assert generated[0, 500:-500].numpy() == pytest.approx(tone(300.0, 16000)[0, 500:-500].numpy(), abs=5e-3)


def test_path_bytes_array_and_tensor_give_the_same_result(pipeline, tmp_path):
    kept = (tone(300.0, 5000) * 32768).round() / 32768
    soundfile.write(tmp_path / "s.wav", (kept[0] * 32768).numpy().astype(np.int16), RATE)
    handed = [tmp_path / "s.wav", str(tmp_path / "s.wav"), (tmp_path / "s.wav").read_bytes(), kept[0].numpy(), kept]
    generated = [one(pipeline, init_audio=sound, strength=0.5, steps=2).data for sound in [*handed, (kept, RATE)]]
    assert all(torch.equal(answer, generated[0]) for answer in generated)


def test_crossfade_slopes_lie_inside_segments_and_meet_in_short_ones():
    redrawn = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1.0])
    shares = crossfade_mask(redrawn, 2)
    assert bool((shares[redrawn == 0] == 0).all()) and shares[4] == 1
    assert shares[2] == shares[6] == pytest.approx(0.25) and shares[3] == shares[5] == pytest.approx(0.75)
    assert shares[8] == shares[9] == pytest.approx(0.5)
    assert shares[11] == pytest.approx(0.25) and shares[12] == pytest.approx(0.75)
    assert torch.equal(crossfade_mask(redrawn, 0), redrawn) and torch.equal(
        crossfade_mask(torch.ones(4), 3), torch.ones(4)
    )


def test_crossfade_0_gives_a_binary_mask():
    request = AudioLengthRequest(init_audio=tone(300.0, 8000), inpaint="0.1-0.2", crossfade=0)
    kept = init_data(request, RATE, 8000).keep_mask
    assert kept.sum() == 8000 - 1600 and kept[1599] == 1 and kept[1600] == kept[3199] == 0


@pytest.mark.parametrize("frequency", [55.0, 440.0, 1234.5])
def test_data_after_the_end_continue_a_tone_without_a_break(frequency):
    known = init_data(AudioLengthRequest(init_audio=tone(frequency, 12000), extend=0.5), RATE, 20000)
    assert torch.equal(known.data[:, :12000], tone(frequency, 12000))
    # the tone decays by a ninth in the 60 ms that follow
    assert float((known.data - tone(frequency, 20000))[:, :13000].abs().max()) < 0.04


@pytest.mark.parametrize("length", [1, 2, 3, 100])
def test_very_short_input_is_repeated(length):
    sound = torch.linspace(0.1, 0.4, length)
    data = init_data(AudioLengthRequest(init_audio=sound, extend=1), RATE, length + RATE).data
    assert torch.equal(data[0, :length], sound) and bool(torch.isin(data, sound).all())


def test_batch_of_several_lengths_equals_single_results(pipeline):
    arguments = [
        pipeline.make_request(prompt=prompt, seed=seed, duration=seconds, steps=2)
        for seed, (prompt, seconds) in enumerate([("red heart", 0.3), ("blue cat", 1.1), ("moon", 0.05), ("dog", 0.3)])
    ]
    together = [answer.data for answer in pipeline(arguments)]
    alone = [pipeline([request])[0].data for request in arguments]
    assert [item.shape[1] for item in together] == [4800, 17600, 800, 4800]
    for item, single in zip(together, alone, strict=True):
        assert float((item - single).abs().max()) <= 1e-3 * max(1.0, float(single.abs().max()))


def test_result_does_not_depend_on_the_padding_of_its_batch(pipeline):
    def first_of_batch(seconds: float) -> torch.Tensor:
        arguments = [("red heart", 0.2, 1), ("blue cat", seconds, 2)]
        requests = [pipeline.make_request(prompt=p, duration=s, seed=n, steps=2) for p, s, n in arguments]
        return pipeline(requests)[0].data

    first, second = first_of_batch(0.7), first_of_batch(3.0)
    assert float((first - second).abs().max()) <= 1e-3 * max(1.0, float(first.abs().max()))


def test_inputs_of_several_lengths_in_one_batch_are_refused(pipeline):
    requests = [pipeline.make_request(prompt="x", init_audio=tone(300.0, length)) for length in (4000, 8000)]
    with pytest.raises(ConfigError, match="expected one size for initial data"):
        generate_batch(pipeline.model, pipeline.registry, requests)
    assert [result.data.shape[-1] for result in pipeline(requests)] == [4000, 8000]  # in batches of their own


def test_command_reads_init_audio_and_stores_its_name_and_spans(run_audio, tmp_path):
    soundfile.write(tmp_path / "mine.wav", (tone(300.0, 8000)[0] * 32767).numpy().astype(np.int16), RATE)
    arguments = ("--init-audio", tmp_path / "mine.wav", "--inpaint", "0.1-0.3", "--steps", 2)
    done = run_audio("a cat", *arguments, "--out", tmp_path / "out.wav")
    assert done.status == 0
    output = record(tmp_path / "out.wav")
    assert (output["init_audio"]["name"], output["inpaint"], output["strength"]) == ("mine.wav", [[0.1, 0.3]], 1.0)
    assert str(tmp_path) not in json.dumps(output)
    generated, mine = samples(tmp_path / "out.wav"), samples(tmp_path / "mine.wav")
    assert np.array_equal(generated[:1600], mine[:1600]) and np.array_equal(generated[4800:], mine[4800:])
    assert (generated[1600:4800] != mine[1600:4800]).mean() > 0.5
    longer = run_audio(
        "a cat", "--init-audio", tmp_path / "mine.wav", "--extend", 0.5, "--steps", 2, "--out", tmp_path / "l.flac"
    )
    assert longer.status == 0 and len(samples(tmp_path / "l.flac")) == 16000
    assert np.array_equal(samples(tmp_path / "l.flac")[:8000], mine)
