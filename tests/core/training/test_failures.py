"""Failures with several processes: one line from one process, none that waits forever, restarts by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from core import sharded_run, toy
from core.toy import recipe, values
from core.training.test_trainer import train
from forked import Program

from lumina_core.locate import list_checkpoints
from lumina_core.model_dir import read_weights
from lumina_core.training.distributed import describe_lost_process

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name == "nt", reason="needs gloo, and signals of POSIX"
)

SETTINGS = {"steps": 12, "global_batch_size": 4, "lr": 1e-3, "checkpoint_interval": 4}
TIMEOUT = 240


def command(folder, **training):
    """Return the script and the arguments of a training of the toy recipe into folder/run."""
    path = folder / "recipe.json"
    path.write_text(json.dumps(values("word", **{**SETTINGS, **training})))
    script = str(Path(toy.__file__).with_name("toy_run.py"))
    return [script, "train", str(path), "--out", str(folder / "run"), "--quiet", "--device", "cpu"]


def run_processes(folder, environment, **training):
    """Run two processes without torchrun, so that nothing ends one when the other fails; returns codes and outputs."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(sharded_run.free_port())}
    shared |= {"OMP_NUM_THREADS": "1", **environment}
    arguments = command(folder, **training)
    processes = [Program(*arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    outputs = [process.communicate(TIMEOUT) for process in processes]
    return [process.returncode for process in processes], "".join(out + err for out, err in outputs)


def errors(output):
    return [line for line in output.splitlines() if line.startswith("Error:")]


@pytest.mark.parametrize(
    ("environment", "training", "expected"),
    [
        ({}, {"global_batch_size": 5}, "training.global_batch_size: got 5 for 2 processes, expected a multiple of 2"),
        ({}, {"lr": -1.0}, "training.lr: got -1.0, expected a value greater than 0"),
        ({"TOY_BAD_DATA": "1"}, {}, "the training stopped (the disk of the data is away)"),
        ({"TOY_FULL_DISK": "1"}, {"parallel": "fsdp"}, "step-00000004 (process 1: "),
        ({}, {"parallel": "hsdp", "shard_size": 3}, "training.shard_size: got 3 for 2 processes"),
    ],
)
def test_a_failure_is_one_line_and_ends_both_processes(tmp_path, environment, training, expected):
    codes, output = run_processes(tmp_path, environment, **training)
    assert all(code in (1, 2) for code in codes), (codes, output)
    assert len(errors(output)) == 1, output
    assert expected in errors(output)[0]
    assert "Traceback" not in output
    assert not list_checkpoints(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.partial*"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_process_that_dies_is_one_line_and_the_other_one_ends(tmp_path, parallel):
    codes, output = run_processes(tmp_path, {"TOY_KILL": f"1:10:{tmp_path / 'mark'}"}, parallel=parallel)
    assert codes == [1, -signal.SIGKILL], output
    assert len(errors(output)) == 1, output
    assert "another process ended" in errors(output)[0]
    # of a sharded training, that of step 8 may not be complete yet
    assert list_checkpoints(tmp_path / "run")[0].name == "step-00000004"


def test_torchrun_restarts_a_sharded_training_of_which_a_process_died(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    torchrun += ["--master-port", str(sharded_run.free_port())]
    done = subprocess.run(
        [*torchrun, *command(tmp_path, parallel="fsdp")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOY_KILL": f"1:6:{tmp_path / 'mark'}"},
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "mark").exists()
    train(tmp_path / "one", recipe("word", **SETTINGS))
    ours, theirs = (read_weights(tmp_path / name / "model" / "model.safetensors") for name in ("run", "one"))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], tensor, atol=1e-6) for name, tensor in theirs.items())
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(1, 13)]


def test_only_errors_of_a_connection_mean_a_lost_process():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547]\n Connection closed by peer [127.0.0.1]:3333")
    assert "another process ended" in describe_lost_process(lost)
    assert describe_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert describe_lost_process(ValueError("connection")) is None
