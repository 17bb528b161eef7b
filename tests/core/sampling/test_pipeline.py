"""The pipeline: prompts, batches, seeds, output types, callbacks, solvers and schedules, errors."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch

from lumina_core.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def pipe():
    pytest.importorskip("lumina_image")
    from lumina_core import Pipeline

    return Pipeline.from_pretrained("image.emoji", device="cpu", dtype=torch.float32)


def test_a_batched_image_equals_the_image_of_its_own_call(pipe):
    images = pipe(["a red heart", "a green frog"], seed=[1, 2], steps=2).images
    alone = pipe("a green frog", seed=2, steps=2).images[0]
    assert np.abs(np.asarray(images[1], dtype=int) - np.asarray(alone, dtype=int)).max() <= 1


def test_a_stopped_run_reports_the_time_of_its_last_step(pipe):
    times = []

    def callback(state):
        times.append(state.time)
        if state.time > np.float64(0.4):
            state.stop()

    output = pipe("a red heart", steps=4, schedule="uniform", callback=callback)
    assert times == [0.25, 0.5] and output[0].metadata["stopped_at"] == times[-1]


def test_a_solver_and_a_schedule_may_be_functions(pipe):
    from lumina_core import integrate, schedules

    def my_step(velocity, x, t, u):
        assert type(t) is float and type(u) is float
        half = x + (u - t) / 2 * velocity(x, t)
        return x + (u - t) * velocity(half, (t + u) / 2)

    named = pipe("a red heart", seed=3, steps=3, solver="midpoint", schedule="shift:shift=2")[0]
    passed = pipe(
        "a red heart",
        seed=3,
        steps=3,
        solver=my_step,
        schedule=lambda n: schedules.shift_schedule(schedules.uniform_times(n), 2),
    )[0]
    assert torch.equal(named.data, passed.data) and passed.metadata["settings"]["solver"] == "my_step"
    listed = pipe("a red heart", seed=3, solver=my_step, schedule=[0, 0.5, 1.0])[0]
    assert listed.metadata["settings"]["steps"] == 2
    # the same through integrate
    velocity, tokens = pipe.velocity("a red heart", seed=3, steps=3)
    with torch.inference_mode():
        values = integrate(
            velocity, tokens.values, schedules.shift_schedule(schedules.uniform_times(3), 2), solver=my_step
        ).values
    assert torch.allclose(pipe.decode(tokens.with_values(values))[0], named.data, atol=1e-5)


@pytest.mark.needs("lumina_image")
def test_a_registered_guidance_function_receives_the_scale():
    from lumina_core import Pipeline, register

    @register("guidance", "mine.double")
    def double(cond, uncond, scale):
        return uncond + 2 * scale * (cond - uncond)

    pipe, options = Pipeline.from_pretrained("image.emoji"), {"seed": 3, "steps": 2}
    guided = pipe("a red heart", guidance="mine.double", guidance_scale=1.5, **options)[0]
    assert torch.allclose(guided.data, pipe("a red heart", guidance_scale=3.0, **options)[0].data, atol=1e-4)
    assert guided.metadata["settings"]["guidance"] == "mine.double"


@pytest.mark.needs("lumina_audio")
def test_sounds_are_arrays_with_their_sampling_rate():
    from lumina_core import Pipeline

    output = Pipeline.from_pretrained("audio.instruments")("a cello", duration=0.5, steps=1)
    assert output.sampling_rate == 16000
    assert output.audios[0].shape == (8000,) and output.audios[0].dtype == np.float32
    assert output[0].encode(".flac")[:4] == b"fLaC" and output[0].encode()[:4] == b"RIFF"


def test_output_types(pipe):
    options = {"seed": 1, "steps": 1}
    tensor, array, latent = (
        pipe("a red heart", output_type=type_name, **options).images[0] for type_name in ("tensor", "np", "latent")
    )
    assert tensor.shape == (3, 64, 64) and array.shape == (64, 64, 3)
    assert torch.allclose((tensor.clamp(-1, 1) + 1) / 2, torch.from_numpy(array).permute(2, 0, 1))
    with torch.inference_mode():
        assert torch.allclose(pipe.model.autoencoder.decode(latent[None])[0], tensor, atol=1e-5)
    with pytest.raises(
        ConfigError, match=r"output_type: got 'tensr', expected one of pil, tensor, np, latent; did you mean 'tensor'"
    ):
        pipe("a red heart", output_type="tensr")


def test_a_result_is_encoded_as_the_bytes_of_its_file(pipe, tmp_path):
    from PIL import Image

    result = pipe("a red heart", seed=1, steps=1)[0]
    assert result.save(tmp_path / "heart.png").read_bytes() == result.encode("png") == result.encode()
    assert Image.open(io.BytesIO(result.encode())).size == (64, 64)
    with pytest.raises(ConfigError, match=r"format: got '\.gif', expected \.png"):
        result.encode(".gif")


def test_seeds_come_from_an_integer_a_list_or_a_generator(pipe):
    def seeds(*prompt, **options):
        return [result.metadata["seed"] for result in pipe(*prompt, steps=1, solver="euler", **options)]

    assert seeds(["a", "b"], seed=5) == [5, 6]
    assert seeds(["a", "b"], seed=5, count=2) == [5, 6, 7, 8]
    assert seeds("a", seed=[3, 9]) == [3, 9]
    lists = [seeds(["a", "b"], generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert lists[0] == lists[1] and len(set(lists[0])) == 2
    with pytest.raises(ConfigError, match="seed: got 3 seeds for 2 prompts"):
        seeds(["a", "b"], seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="seed: got it together with generator"):
        seeds("a", seed=1, generator=torch.Generator())


def test_requests_of_several_sizes_and_settings_are_grouped_and_keep_their_order(pipe, monkeypatch):
    from lumina_core.sampling import pipeline

    plain, batches = pipeline.generate_items, []

    def counted(model, plan, items, *rest, **more):
        batches.append(len(items))
        return plain(model, plan, items, *rest, **more)

    monkeypatch.setattr(pipeline, "generate_items", counted)
    requests = [
        pipe.make_request(prompt="a red heart", steps=1, seed=1),
        pipe.make_request(prompt="a frog", steps=2, seed=2, solver="euler"),
        pipe.make_request(prompt="a cat", steps=1, seed=3, size="32x64"),
        pipe.make_request(prompt="a dog", steps=1, seed=4, negative_prompt="blue"),
    ]
    output = pipe(requests)
    assert sorted(batches) == [1, 1, 2]
    assert [result.metadata["prompt"] for result in output] == ["a red heart", "a frog", "a cat", "a dog"]
    for request, result in zip(requests, output, strict=True):
        assert torch.allclose(pipe(request)[0].data, result.data, atol=1e-4)
    with pytest.raises(ConfigError, match=r"steps: got it together with requests"):
        pipe(requests, steps=3)


def test_batches_are_split_by_the_free_memory_and_halved_where_it_does_not_suffice(pipe, monkeypatch):
    from lumina_core.sampling import pipeline, resolve

    plain, batches = pipeline.generate_items, []

    def small(model, plan, items, *rest, **more):
        batches.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("not enough")
        return plain(model, plan, items, *rest, **more)

    monkeypatch.setattr(pipeline, "generate_items", small)
    assert len(pipe(["a"] * 4, steps=1)) == 4 and batches == [4, 2, 2]
    batches.clear()
    request = pipe.make_request(prompt="a")
    size = pipe.model.task.size(request)
    one = resolve.estimate_memory(pipe.model, resolve._token_counts(pipe.model, size)[0], size)
    monkeypatch.setattr(resolve, "available_memory", lambda device: 3 * one)
    pipe(["a"] * 2, steps=1)
    assert batches == [1, 1]
    batches.clear()
    monkeypatch.setattr(resolve, "available_memory", lambda device: None)
    pipe(["a"] * 3, steps=1, batch_size=2)
    assert batches == [2, 1]


def test_two_threads_may_use_one_pipeline(pipe):
    expected = {seed: pipe("a red heart", seed=seed, steps=2)[0].data for seed in range(4)}
    results: dict[int, torch.Tensor] = {}

    def generate(seed):
        results[seed] = pipe("a red heart", seed=seed, steps=2)[0].data

    threads = [threading.Thread(target=generate, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(results[seed], data, atol=1e-5) for seed, data in expected.items())


@pytest.mark.needs("lumina_image")
def test_a_pipeline_can_be_moved_to_another_dtype():
    from lumina_core import Pipeline

    pipe = Pipeline.from_pretrained("image.emoji")
    assert pipe.to("cpu", torch.bfloat16) is pipe and pipe.model.dtype == torch.bfloat16
    assert pipe("a red heart", steps=1).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scal": 3.0}, "guidance_scal: got an unknown option, .* did you mean 'guidance_scale'"),
        ({"output_typ": "np"}, "output_typ: got an unknown option, .* did you mean 'output_type'"),
        ({"solver": 3}, r"solver: got 3, expected a name, a function \(velocity, x, t, u\) -> x"),
        ({"solver": "midpont"}, "did you mean 'midpoint'"),
        ({"schedule": object()}, "schedule: got <object .*, expected a name, times that rise"),
        ({"schedule": [0.0, 0.7, 0.5, 1.0]}, "expected times that rise from 0 to 1"),
        ({"schedule": lambda n: [0.5] * (n + 1)}, "expected times that rise from 0 to 1"),
        ({"guidance": "cgf"}, "did you mean 'cfg'|cgf"),
        ({"callback": lambda state: True}, "callback: got the return value True"),
    ],
)
def test_a_wrong_option_is_one_clear_error(pipe, options, message):
    from lumina_core.errors import LuminaError

    with pytest.raises(LuminaError, match=message):
        pipe("a red heart", steps=1, **options)


@pytest.mark.needs("lumina_image")
def test_a_wrong_model_device_or_dtype_is_one_clear_error():
    from lumina_core import Pipeline

    with pytest.raises(CheckpointError, match=r"model: got 'image.emoj', .* did you mean 'image.emoji'"):
        Pipeline.from_pretrained("image.emoj")
    with pytest.raises(ConfigError, match="device: got 'gpu9', expected an available one"):
        Pipeline.from_pretrained("image.emoji", device="gpu9")
    with pytest.raises(ConfigError, match="dtype: got 'int8', expected one of auto"):
        Pipeline.from_pretrained("image.emoji", dtype=torch.int8)


def test_a_guide_model_is_opened_with_the_registry_and_the_devices_of_the_pipeline(pipe, monkeypatch):
    from lumina_core import Pipeline

    opened = []
    plain = Pipeline._open.__func__

    def recorded(cls, name, registry, task, placement, compile=False):
        opened.append((registry, placement))
        return plain(cls, name, registry, task, placement, compile)

    monkeypatch.setattr(Pipeline, "_open", classmethod(recorded))
    mine = Pipeline(pipe.model, pipe.registry, pipe.placement)
    options = {"guide_model": "image.emoji", "guidance_scale": 2.0, "steps": 1}
    first, second = (mine("a red heart", **options)[0].data for _ in range(2))
    assert torch.equal(first, second) and len(opened) == 1
    assert opened[0][0] is mine.registry and opened[0][1].device == mine.placement.device


def test_frames_between_solver_and_network_are_at_most_four(pipe, monkeypatch):
    import sys

    from lumina_core.models.next_dit import NextDiTBackbone

    depths = []
    plain = NextDiTBackbone.forward

    def forward(self, *arguments, **options):
        names, frame = [], sys._getframe(1)
        while frame.f_code.co_name != "my_step":
            if "/torch/" not in frame.f_code.co_filename:
                names.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)
            frame = frame.f_back
        depths.append(names)
        return plain(self, *arguments, **options)

    def my_step(velocity, x, t, u):
        return x + (u - t) * velocity(x, t)

    monkeypatch.setattr(NextDiTBackbone, "forward", forward)
    mask_request = {"init_image": torch.zeros(3, 64, 64), "mask": torch.ones(64, 64)}
    for options in ({}, {"guidance_scale": 1.0}, {"cfg_batching": "sequential"}, mask_request):
        pipe("a red heart", steps=1, solver=my_step, **options)
    assert max(map(len, depths)) <= 4, depths
