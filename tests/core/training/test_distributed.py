"""Several processes: the losses of one process, one writer of files, one GPU per process."""

from __future__ import annotations

import csv
import json
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from core import toy
from core.toy import recipe, registry, values
from core.training.test_trainer import make_trainer, train
from forked import Program

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.model_dir import read_weights
from lumina_core.training import distributed
from lumina_core.training import trainer as trainer_module
from lumina_core.training.distributed import (
    ProcessInfo,
    all_reduce_mean,
    init_distributed,
    no_sync,
    wait_for_main,
    wrap_ddp,
)
from lumina_core.training.trainer import freeze, optional_weights

SETTINGS = {"steps": 8, "global_batch_size": 8, "checkpoint_interval": 4, "cond_dropout": 0.3}

needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this build of torch has no torch.distributed"
)


def losses(out):
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_two_processes(folder, toy_values, *arguments, **environment):
    """Run `lumina train` in two processes joined by gloo, with the environment that torchrun sets."""
    (folder / "recipe.json").write_text(json.dumps(toy_values))
    command = [Path(toy.__file__).with_name("toy_run.py"), "train", folder / "recipe.json"]
    command += ["--out", folder / "two", "--quiet", "--device", "cpu", *arguments]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    shared |= environment
    processes = [Program(*command, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    outputs = ["".join(process.communicate(300)) for process in processes]
    return [process.returncode for process in processes], outputs


@needs_distributed
def test_two_processes_give_the_losses_of_one_also_if_sampling_takes_long(tmp_path):
    dataset = {"mixed": True, "weighted": True}
    train(tmp_path / "one", recipe("word", dataset, **SETTINGS))
    settings = {**SETTINGS, "sample_interval": 4, "sample_requests": [{"word": "low"}]}
    # sampling takes longer than the timeout of a collective: the second process waits for the first one all the same
    codes, outputs = run_two_processes(
        tmp_path, values("word", dataset, gradient_accumulation_steps=2, **settings),
        TOY_COLLECTIVE_TIMEOUT="4", TOY_SLOW_SAMPLES="6",
    )  # fmt: skip
    assert codes == [0, 0], outputs
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in two] == [step for step, _ in one] == list(range(1, 9))
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    ours, theirs = (read_weights(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all(float((ours[name] - theirs[name]).abs().max()) < 1e-3 for name in ours)
    assert not list((tmp_path / "two").rglob("*.partial*"))
    assert all("Traceback" not in text for text in outputs)
    assert [text.count("the model is in") for text in outputs] == [1, 0]


@needs_distributed
def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "init_distributed", lambda device: ProcessInfo(0, 2, torch.device("cpu")))
    monkeypatch.setattr(trainer_module, "build_stages", lambda *_: pytest.fail("a data set was built"))
    monkeypatch.setattr(trainer_module, "build_model", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(ConfigError, match="global_batch_size: got 5 for 2 processes, expected a multiple of 2"):
        make_trainer(tmp_path / "run", recipe(global_batch_size=5))
    assert not list(tmp_path.iterdir())


def test_a_single_process_needs_no_process_group():
    process = init_distributed("cpu")
    assert process == ProcessInfo(0, 1, torch.device("cpu"))
    assert process.is_main
    assert not torch.distributed.is_initialized()
    value, module = torch.tensor(3.0), torch.nn.Linear(1, 1)
    assert all_reduce_mean(value, process) is value
    assert wrap_ddp(module, process, True) is module
    assert isinstance(no_sync(module), nullcontext)
    assert wait_for_main(True, process) and not wait_for_main(False, process)


def test_only_the_first_process_is_main():
    assert not ProcessInfo(1, 2, torch.device("cpu")).is_main


# ---- devices, with a fake torch.cuda


@pytest.fixture
def cuda(monkeypatch):
    """A fake CUDA that records the devices set, and a fake process group."""
    devices = []

    def set_device(device):
        if torch.device(device).index is None:
            raise ValueError(f"Expected a torch.device with a specified index, but got: {device}")
        devices.append(torch.device(device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "new_group", lambda **_: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return devices


@pytest.mark.parametrize(("name", "index"), [(None, 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_single_process_takes_the_gpu_that_was_named_or_the_first(cuda, name, index):
    assert init_distributed(name).device == torch.device("cuda", index)
    assert cuda == [torch.device("cuda", index)]


@pytest.mark.parametrize("name", [None, "cuda"])
def test_each_process_takes_the_gpu_of_its_local_rank(cuda, monkeypatch, name):
    for key, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    assert init_distributed(name).device == torch.device("cuda", 1)
    assert cuda == [torch.device("cuda", 1)]


def test_one_gpu_for_several_processes_is_refused(cuda, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device: got cuda:0 in 2 processes, expected a device without an index"):
        init_distributed("cuda:0")


def test_an_unknown_device_is_one_clear_error():
    with pytest.raises(ConfigError, match="device: got 'cuad', expected cpu, cuda"):
        init_distributed("cuad")


# ---- gradients


@pytest.mark.parametrize(("settings", "expected"), [({}, True), ({"freeze": ["conditioners.word"]}, False)])
def test_unused_parameters_are_searched_only_if_trained_conditioners_may_have_some(settings, expected):
    model = build_model(recipe("word", **settings), registry())
    freeze(model, settings.get("freeze", ()))
    assert bool(optional_weights(model)) is expected


def test_gradients_are_averaged_once_per_step_and_terms_over_processes(tmp_path, monkeypatch):
    """All micro-batches but the last run in `no_sync`."""
    events = []

    class Context:
        def __enter__(self):
            events.append("no_sync")

        def __exit__(self, *error):
            events.append("end")

    with make_trainer(tmp_path, recipe("word", steps=1, gradient_accumulation_steps=3)) as trainer:
        forward = trainer._loss_module.forward

        def with_term(batch, eager=False):
            events.append("forward")
            total, _ = forward(batch, eager)
            return total, {"term": total.detach()}

        monkeypatch.setattr(trainer._loss_module, "forward", with_term)
        monkeypatch.setattr(distributed, "no_sync", lambda module: Context())
        monkeypatch.setattr(distributed, "all_reduce_mean", lambda value, process: value + 1)
        metrics = trainer.train_step(next(trainer.batches()))
    assert events == ["no_sync", "forward", "end", "no_sync", "forward", "end", "forward"]
    assert metrics.terms["term"] == pytest.approx(metrics.loss) and metrics.loss > 1
