"""Repeat trainings of two processes: how many end without an abort or a hang, and what kills at random moments cost.

    python tests/core/repeat_distributed.py --exits 50 --kills 30

Not collected by pytest; `nox -s distributed` runs it. Both processes of a run are forked from this one, which has
imported everything and started no thread; they end as any interpreter does. A killed run (one process or both, at a
random moment, also while it saves) is resumed until it ends, and its weights are compared with those of a run that
nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed.checkpoint.filesystem
import torch.distributed.fsdp
from core import toy
from core.sharded_run import free_port

from lumina_core.locate import list_checkpoints
from lumina_core.model_dir import read_weights
from lumina_core.recipe import read_recipe
from lumina_core.training import checkpoint
from lumina_core.training.trainer import Trainer

TIMEOUT = 120.0


def slow_saves(seconds=0.02):
    """Let saves take as long as the training, so that many kills hit one."""
    for module, name in ((checkpoint, "save_file"), (torch.distributed.checkpoint.filesystem, "_write_item")):
        setattr(module, name, slowed(getattr(module, name), seconds))


def slowed(function, seconds):
    """Return a function that sleeps after each call."""

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        time.sleep(seconds)
        return result

    return call


def fork_training(out, port, rank, parallel, training):
    """Start one of two processes of a training; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    log = os.open(out.with_suffix(f".{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    settings = {"steps": 24, "global_batch_size": 4, "lr": 1e-3, "checkpoint_interval": 2, "parallel": parallel}
    toy_recipe = read_recipe(toy.values("word", **{**settings, **training}), "toy")
    Trainer(toy_recipe, out, device="cpu", registry=toy.registry(), resume="auto").train()
    sys.exit(0)


def wait(pids, timeout=TIMEOUT):
    """Wait for processes; returns their exit codes, -9 of those that did not end in time."""
    codes, deadline = {}, time.monotonic() + timeout
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def run(out, parallel, **training):
    """Run a training of two processes to its end; returns the exit codes."""
    port = free_port()
    return wait([fork_training(out, port, rank, parallel, training) for rank in (0, 1)])


def repeat_exits(folder, count):
    """Return how many of `count` trainings ended with code 0 in both processes."""
    good = 0
    for index in range(count):
        parallel = ("ddp", "fsdp")[index % 2]
        codes = run(folder / f"exit{index}", parallel, steps=4)
        good += codes == [0, 0]
        if codes != [0, 0]:
            print(f"exit {index} ({parallel}): codes {codes}", flush=True)
    return good


def repeat_kills(folder, count, seed=0):
    """Kill trainings `count` times; returns the numbers of runs and of kills during a save, and how weights differ."""
    rng, kills, runs, saves, worst = random.Random(seed), 0, 0, 0, 0.0
    expected = {}
    for parallel in ("ddp", "fsdp"):
        start_time = time.monotonic()
        assert run(folder / f"whole-{parallel}", parallel) == [0, 0]
        expected[parallel] = time.monotonic() - start_time, weights(folder / f"whole-{parallel}")
    while kills < count:
        parallel = ("ddp", "fsdp")[runs % 2]
        duration, theirs = expected[parallel]
        out = folder / f"run{runs}"
        runs += 1
        codes = [1, 1]
        while codes != [0, 0]:
            port = free_port()
            pids = [fork_training(out, port, rank, parallel, {}) for rank in (0, 1)]
            if kills < count:
                time.sleep(rng.uniform(0.05, 0.9) * duration)
                victims = rng.choice([pids[:1], pids[1:], pids])
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                kills += 1
                saves += any((out / "checkpoints").glob(".*.partial*"))
            codes = wait(pids)
        ours = weights(out)
        worst = max(worst, *(float((ours[name] - theirs[name]).abs().max()) for name in theirs))
        assert not list((out / "checkpoints").glob(".*.partial*")) and list_checkpoints(out)
    return runs, saves, worst


def weights(out):
    """Read the averaged weights of a finished training."""
    return read_weights(out / "model" / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exits", type=int, default=50)
    parser.add_argument("--kills", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work, parent = Path(tempfile.mkdtemp()), os.getpid()
    try:
        if arguments.exits:
            print(f"exits: {repeat_exits(work, arguments.exits)} of {arguments.exits} with code 0", flush=True)
        if arguments.kills:
            slow_saves()
            count, saves, difference = repeat_kills(work, arguments.kills)
            print(
                f"kills: {arguments.kills} in {count} runs, {saves} during a save, none lost; "
                f"weights differ by at most {difference:.1e}"
            )
    finally:
        if os.getpid() == parent:  # forked processes end here too
            shutil.rmtree(work, ignore_errors=True)
