"""`lumina evaluate` under torchrun: the processes share the samples, one of them prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from core import toy
from core.sharded_run import free_port
from forked import Program

from lumina_core.model import build_model
from lumina_core.model_dir import save_model

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no gloo")


def evaluated(processes, *arguments):
    """Run the command in some processes at once; returns exit codes, stdout and stderr."""
    script = str(Path(toy.__file__).with_name("toy_run.py"))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "TOY_METRIC": "1"}
    running = [
        Program(
            script, "evaluate", *arguments, **shared, WORLD_SIZE=str(processes), RANK=str(rank), LOCAL_RANK=str(rank)
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=240) for process in running]
    return [process.returncode for process in running], *map(list, zip(*outputs, strict=True))


def test_two_processes_report_once_what_one_process_reports(tmp_path):
    torch.manual_seed(1)
    model = build_model(toy.recipe("word"), toy.registry())
    torch.nn.init.normal_(model.head.linear.weight, std=0.3)
    save_model(model, tmp_path / "model", toy.registry())
    options = (tmp_path / "model", "--samples", 7, "--batch-size", 2, "--steps", 2, "--json")
    codes, outputs, errors = evaluated(2, *options, "--out", tmp_path / "two")
    assert codes == [0, 0], errors
    assert outputs[1] == ""
    _, (alone,), _ = evaluated(1, *options)
    two, one = (json.loads(text) for text in (outputs[0], alone))
    assert two["scores"] == one["scores"] and two["num_generated"] == 7
    assert two == json.loads((tmp_path / "two" / "scores.json").read_text())
    # batches of both processes are stored, so that the evaluation can be resumed
    assert len(list((tmp_path / "two" / "batches").iterdir())) == 4

    codes, _, errors = evaluated(2, *options, "--out", tmp_path / "two")
    assert codes == [2, 2] or sorted(codes) == [1, 2]
    assert sum(text.count("Error:") for text in errors) == 1 and "has an evaluation" in "".join(errors)
