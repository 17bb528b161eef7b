"""Two processes give the losses of one with the same batch, and only the first of them writes."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from core import toy
from core.toy import recipe, registry, values

from lumina_core.model_dir import read_weights
from lumina_core.training.distributed import ProcessInfo, all_reduce_mean, barrier, init_distributed, wrap_ddp
from lumina_core.training.trainer import TrainArgs, train

SETTINGS = {"steps": 8, "global_batch_size": 8, "checkpoint_interval": 4, "cond_dropout": 0.3}


def losses(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def two_processes(folder, said, *more):
    """`lumina train` in two processes joined by gloo, with the environment that torchrun sets."""
    (folder / "recipe.json").write_text(json.dumps(said))
    command = [sys.executable, str(Path(toy.__file__).with_name("toy_run.py")), "train", str(folder / "recipe.json")]
    command += ["--out", str(folder / "two"), "--quiet", "--device", "cpu", *more]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command, env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said_by = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said_by
    return said_by


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch knows no other process")
def test_two_processes_give_the_losses_of_one(tmp_path):
    dataset = {"mixed": True, "weighted": True}
    train(recipe("word", dataset, **SETTINGS), registry(), TrainArgs(tmp_path / "one", quiet=True, device="cpu"))
    said = two_processes(tmp_path, values("word", dataset, gradient_accumulation_steps=2, **SETTINGS))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in two] == [step for step, _ in one] == list(range(1, 9))
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    ours, theirs = (read_weights(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all(float((ours[name] - theirs[name]).abs().max()) < 1e-3 for name in ours)
    assert not list((tmp_path / "two").rglob("*.partial*"))
    assert all("Traceback" not in text for text in said)


def test_one_process_needs_nobody():
    place = init_distributed("cpu")
    assert place == ProcessInfo(0, 1, torch.device("cpu"))
    assert place.is_main
    assert not torch.distributed.is_initialized()
    value, module = torch.tensor(3.0), torch.nn.Linear(1, 1)
    assert all_reduce_mean(value, place) is value
    assert wrap_ddp(module, place) is module
    barrier(place)


def test_only_the_first_of_several_speaks():
    assert not ProcessInfo(1, 2, torch.device("cpu")).is_main
