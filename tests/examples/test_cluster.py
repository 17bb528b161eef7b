"""Cluster examples: their scripts are valid, and `lumina train` accepts the arguments that they pass."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lumina_core.cli.train import train

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
STUBS = {"torchrun": 'printf "%s\\n" "$@" > "$ARGUMENTS"', "srun": '"$@"', "scontrol": "echo first-node"}


def parse(words):
    """Parse the arguments behind `lumina_core train`; returns the options of the command."""
    position = words.index("lumina_core")
    assert words[position - 1] == "-m" and words[position + 1] == "train"
    return train.make_context("train", words[position + 2 :]).params


@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize(("script", "parallel"), [("torchrun.sh", "fsdp"), ("slurm.sh", "hsdp")])
def test_a_script_starts_a_training_that_resumes_by_itself(tmp_path, script, parallel):
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ARGUMENTS": str(tmp_path / "arguments")}
    environment |= {"SLURM_JOB_NODELIST": "n[1-8]", "SLURM_NNODES": "8", "SLURM_JOB_ID": "7"}
    subprocess.run(
        ["bash", str(FOLDER / script), "image.2b", str(tmp_path / "run"), "--set", "training.steps=10"],
        env={**os.environ, **environment}, check=True, timeout=60,
    )  # fmt: skip
    words = (tmp_path / "arguments").read_text().splitlines()
    options = parse(words)
    assert (options["recipe"], options["out"], options["auto_resume"]) == ("image.2b", tmp_path / "run", True)
    assert options["settings"] == (f"training.parallel={parallel}", "training.steps=10")
    assert "--max-restarts" in words


def test_the_job_of_kubernetes_starts_a_training_that_resumes_by_itself():
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text(encoding="utf-8"))
    assert job["kind"] == "PyTorchJob"
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    options = parse([*container["command"], *container["args"]])
    assert options["auto_resume"] and options["out"] == Path("/shared/runs/2b")
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
