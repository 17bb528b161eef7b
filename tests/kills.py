"""Kills of a training: at every disk call of a save, and at random moments; afterwards nothing may be lost.

All of them: python tests/kills.py --kills 60 (in `nox -s fuzz`); the tests take a quick share.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from core import toy

from lumina_core.io import remove_partial
from lumina_core.model_dir import read_weights

DISK_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.copyfile")
DURATIONS = (
    "step_seconds", "samples_per_second", "tokens_per_second", "mfu", "memory_bytes", "data_seconds", "seconds_left",
)  # fmt: skip
"""Columns of metrics.csv that are measured, and differ between two runs."""


def count_disk_calls(action: Callable[[], object]) -> int:
    """Return the number of disk calls of an action, in a child process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        calls = [0]
        _watch_disk(lambda: calls.__setitem__(0, calls[0] + 1))
        action()
        os.write(writer, str(calls[0]).encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 20).decode()
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the action failed"
    return int(text)


def killed_at(action: Callable[[], object], number: int) -> None:
    """Run an action in a child process that is killed right before its disk call of a number (the first is 0)."""
    pid = os.fork()
    if pid == 0:
        calls = [0]

        def count() -> None:
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1

        _watch_disk(count)
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def _watch_disk(on_call: Callable[[], None]) -> None:
    """Call a function before every disk call of this process: Python's by audit events, others by their functions."""
    fsync, kill_at_write = os.fsync, on_call

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event in DISK_EVENTS and not str(args[0]).startswith(("/proc", "/sys", "/dev")):
            kill_at_write()

    def fsync_watched(handle: int) -> None:
        kill_at_write()
        fsync(handle)

    os.fsync = fsync_watched
    from lumina_core import io
    from lumina_core.training import checkpoint

    exchange, save_file = io._exchange, checkpoint.save_file

    def exchange_watched(one: Path, other: Path) -> bool:
        kill_at_write()
        done = exchange(one, other)
        kill_at_write()
        return done

    def save_watched(tensors: dict, path: Path, *rest: object) -> None:
        kill_at_write()
        path.write_bytes(b"half")
        kill_at_write()
        save_file(tensors, path, *rest)
        kill_at_write()

    io._exchange, checkpoint.save_file = exchange_watched, save_watched
    sys.addaudithook(watch)


# ---- trainings as processes


def toy_command(out: Path, *arguments: str) -> list[str]:
    recipe = out.parent / f"{out.name}.json"
    settings = {"steps": 12, "checkpoint_interval": 3, "sample_interval": 3, "sample_requests": [{"word": "low"}]}
    recipe.write_text(json.dumps(toy.values("word", **settings)))
    script = str(Path(toy.__file__).with_name("toy_run.py"))
    return [sys.executable, script, "train", str(recipe), "--out", str(out), "--quiet", "--device", "cpu", *arguments]


def recipe_command(name: str, out: Path, *arguments: str) -> list[str]:
    """Return the command of a short training of an installed recipe."""
    settings = {
        "steps": 6, "global_batch_size": 2, "checkpoint_interval": 2, "sample_interval": 2, "compile": "false",
        "warmup_steps": 1,
    }  # fmt: skip
    words = [part for key, value in settings.items() for part in ("--set", f"training.{key}={value}")]
    words += ["--set", "training.sample_requests=[{prompt: piano, steps: 1}]"]
    command = [sys.executable, "-m", "lumina_core", "train", name, "--out", str(out), "--quiet", "--device", "cpu"]
    return [*command, *words, *arguments]


def start(command: list[str], processes: int = 1, **environment: str) -> list[subprocess.Popen[str]]:
    """Start a command once, or as the ranks of torchrun."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    ranks: list[dict[str, str]] = [{}]
    if processes > 1:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = str(sock.getsockname()[1])
        group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    return [subprocess.Popen(command, env={**shared, **rank}, **output) for rank in ranks]


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for the end of processes, and return their outputs; they must succeed."""
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def kill_at_random(
    make_command: Callable[[Path], list[str]], folder: Path, kills: int, seed: int, processes: int = 1
) -> None:
    """Train without an interruption, and with kills and resumes; both must have the same files."""
    rng = random.Random(seed)
    whole, torn = folder / "whole", folder / "torn"
    begin = time.monotonic()
    finish(start(make_command(whole), processes, TOY_DELAY="0.02"))
    duration = time.monotonic() - begin
    for _ in range(kills):
        has_run = any((torn / "checkpoints").glob("step-*")) if torn.is_dir() else False
        running = start([*make_command(torn), *(["--resume"] if has_run else [])], processes, TOY_DELAY="0.02")
        time.sleep(rng.uniform(0.2, 1.0) * duration)
        for process in running if rng.random() < 0.5 else running[:1]:
            process.kill()
        time.sleep(0.3)
        for process in running:  # torchrun ends the others
            process.kill()
            process.communicate()
    has_run = any((torn / "checkpoints").glob("step-*"))
    finish(start([*make_command(torn), *(["--resume"] if has_run else [])], processes, TOY_DELAY="0.02"))
    expect_same(whole, torn)


def expect_same(whole: Path, torn: Path) -> None:
    """Compare the results of two trainings: weights, metrics and samples bit for bit, and no file too many."""
    for name in ("model/model.safetensors",):
        one, other = read_weights(whole / name), read_weights(torn / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert metric_rows(whole) == metric_rows(torn)
    samples = sorted(path.name for path in (whole / "samples").iterdir())
    assert samples == sorted(path.name for path in (torn / "samples").iterdir()) and samples
    for name in samples:
        assert (whole / "samples" / name).read_bytes() == (torn / "samples" / name).read_bytes(), name
    for folder in (torn, torn / "checkpoints"):
        remove_partial(folder)
        left = [path.name for path in folder.iterdir() if ".partial" in path.name]
        assert not left, left
    assert {p.name for p in (whole / "checkpoints").iterdir()} == {p.name for p in (torn / "checkpoints").iterdir()}


def metric_rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in DURATIONS} for row in csv.DictReader(file)]


def race(make_command: Callable[[Path], list[str]], out: Path) -> None:
    """Start two trainings into one folder: one must run to its end, the other must be refused."""
    commands = [make_command(out) for _ in range(2)]
    running = [start(command, TOY_DELAY="0.1")[0] for command in commands]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 2], (codes, outputs)
    refused = outputs[codes.index(2)]
    assert "which another training uses" in refused or "holds a training already" in refused, refused
    assert [int(row["step"]) for row in metric_rows(out)] == list(range(1, len(metric_rows(out)) + 1))


def main() -> None:
    """Run all kills and races."""
    import tempfile

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=60, help="kills in all, over the kinds of training")
    parser.add_argument("--races", type=int, default=10)
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    kinds: dict[str, tuple[Callable[[Path], list[str]], int]] = {
        "toy": (toy_command, 1),
        "toy, two processes": (toy_command, 2),
        "pictures": (lambda out: recipe_command("image.tiny", out), 1),
        "sound": (lambda out: recipe_command("audio.tiny", out), 1),
        "pictures, two processes": (lambda out: recipe_command("image.tiny", out), 2),
        "sound, two processes": (lambda out: recipe_command("audio.tiny", out), 2),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(args.races):
            race(toy_command, folder / f"race-{number}")
        print(f"{args.races} races: one ran and one was refused each time", flush=True)
        for index, (kind, (make_command, processes)) in enumerate(kinds.items()):
            place = folder / str(index)
            place.mkdir()
            kills = -(-args.kills // len(kinds))
            kill_at_random(make_command, place, kills, args.seed + index, processes)
            print(f"{kind}: {kills} kills, nothing lost", flush=True)


if __name__ == "__main__":
    main()
