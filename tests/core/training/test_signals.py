"""Ctrl-C and SIGTERM save; a file gets lines of progress; no reader is needed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from core import toy
from forked import Program

from lumina_core.errors import ConfigError
from lumina_core.training.callbacks import ProgressBar
from lumina_core.training.trainer import Trainer

RUN = Path(__file__).parents[1] / "toy_run.py"


def rows(out: Path) -> list[dict[str, str]]:
    path = out / "metrics.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


def start(recipe: Path, out: Path, *more: str) -> Program:
    return Program(RUN, "train", recipe, "--out", out, *more)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_DELAY", "0.02")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # with more, a busy machine gets a note before the first line
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(toy.values(steps=100000, checkpoint_interval=50000)), encoding="utf-8")
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(recipe, tmp_path, number):
    process = start(recipe, tmp_path / "run")
    deadline = time.monotonic() + 60
    while len(rows(tmp_path / "run")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(rows(tmp_path / "run")[-1]["step"])
    assert process.returncode == 130 and checkpoint.name == f"step-{step:08d}"
    assert f"stopped after step {step}" in err and "--resume" in err and "Traceback" not in err
    assert out.startswith("step 1/100000  loss ")
    done = start(recipe, tmp_path / "run", "--resume", "--set", f"training.steps={step + 2}")
    done.communicate(timeout=120)
    assert done.returncode == 0 and [int(row["step"]) for row in rows(tmp_path / "run")] == [*range(1, step + 3)]


def test_a_training_ends_with_its_model_without_a_reader_of_its_output(recipe, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, RUN, "train", recipe, "--out", tmp_path / "run", "--set", "training.steps=3"]
    process = subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_file_gets_a_line_now_and_then_and_one_at_the_end(tmp_path, capsys):
    with Trainer(toy.recipe(steps=5), tmp_path, callbacks=[ProgressBar(1000.0)], registry=toy.registry()) as trainer:
        trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/5", "5/5"] and "s a step" in lines[0] and "left" in lines[0]


def test_a_folder_with_foreign_files_is_refused_and_stays(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("three years of work")
    (tmp_path / "recipe.yaml").write_text("bread: flour")
    with pytest.raises(ConfigError, match=r"which has model, recipe\.yaml of something else"):
        Trainer(toy.recipe(steps=2), tmp_path, registry=toy.registry())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "recipe.yaml", "thesis.txt"]


def test_weights_to_begin_from_and_resume_are_refused_together(tmp_path):
    with Trainer(toy.recipe(steps=2, checkpoint_interval=1), tmp_path / "run", registry=toy.registry()) as trainer:
        trainer.train()
    with pytest.raises(ConfigError, match="init: got it together with resume"):
        Trainer(toy.recipe(steps=4), tmp_path / "run", resume=True, init=["nowhere"], registry=toy.registry())
    with Trainer(toy.recipe(steps=1), tmp_path / "run", resume=True, registry=toy.registry()) as trainer:
        assert any("the run is at step 2 already" in message for message in trainer.messages)
        trainer.train()
    assert "steps: 2" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
