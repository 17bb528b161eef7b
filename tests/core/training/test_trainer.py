"""A whole run: killed at any moment it goes on with the same numbers, and what it leaves is whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from core import toy
from core.toy import recipe, registry, values
from safetensors.torch import save_file

from lumina_core.errors import CheckpointError, ConfigError, LuminaError
from lumina_core.model_dir import load_model, read_weights
from lumina_core.training import checkpoint, trainer
from lumina_core.training.trainer import TrainArgs, train

PATIENCE = 120
"""Seconds to wait for another process."""


def run(folder, asked=None, **how):
    return train(asked or recipe("word"), registry(), TrainArgs(folder, quiet=True, device="cpu", **how))


def rows(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "step_seconds"} for row in csv.DictReader(file)]


def same(one, other):
    """Whether two folders hold the same weights bit for bit."""
    first, second = read_weights(one / "model.safetensors"), read_weights(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def process(folder, **environment):
    """`lumina train` of the toy recipe in a process of its own."""
    (folder.parent / "recipe.json").write_text(json.dumps(values("word")))
    # threads as here: their number decides how sums are cut
    said = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
    command = [sys.executable, str(Path(toy.__file__).with_name("toy_run.py")), "train"]
    command += [str(folder.parent / "recipe.json"), "--out", str(folder), "--quiet", "--device", "cpu"]
    return subprocess.Popen(command, env=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(started, ready):
    """Kill a process with a signal that it cannot catch, once `ready()` is true."""
    until = time.monotonic() + PATIENCE
    while not ready():
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < until, "the process never came so far"
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    started.stdout.close()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder)
    return folder


def test_a_run_that_was_killed_goes_on_with_the_same_numbers(tmp_path, unbroken):
    out = tmp_path / "run"
    started = process(out, TOY_DELAY="0.02")
    kill_when(
        started, lambda: (out / "metrics.csv").is_file() and len((out / "metrics.csv").read_text().splitlines()) > 6
    )
    assert checkpoint.latest_checkpoint(out).name in {"step-00000004", "step-00000008"}
    run(out, resume=True)
    assert same(out / "model", unbroken / "model")
    assert rows(out) == rows(unbroken)


def test_a_run_that_was_killed_while_saving_goes_on_with_the_same_numbers(tmp_path, unbroken):
    out, mark = tmp_path / "run", tmp_path / "mark"
    kill_when(process(out, TOY_SLEEP_IN="step-00000008", TOY_MARK=str(mark)), mark.exists)
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-00000004"]
    assert len(list((out / "checkpoints").glob(".step-00000008*partial"))) == 1
    run(out, resume=True)
    assert same(out / "model", unbroken / "model")
    assert rows(out) == rows(unbroken)
    assert not list(out.rglob("*.partial*"))


@pytest.mark.parametrize(
    "asked",
    [
        {"optimizer": "muon", "gradient_accumulation_steps": 2},
        {"num_workers": 1, "ema_decay": 0.5, "lr_decay": "cosine"},
    ],
)
def test_a_run_that_stopped_goes_on_with_the_same_numbers_whatever_the_recipe(tmp_path, monkeypatch, asked):
    wanted = recipe(
        "costly", {"mixed": True, "weighted": True}, freeze=["conditioners.word"], cond_dropout=0.3, **asked
    )
    run(tmp_path / "whole", wanted)
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_save_and_sample", _stop_after(8))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", wanted)
    run(tmp_path / "cut", wanted, resume=True)
    assert same(tmp_path / "cut" / "model", tmp_path / "whole" / "model")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def _stop_after(step):
    usual = trainer._save_and_sample

    def milestones(run, done, *rest):
        usual(run, done, *rest)
        if done == step + 1:
            raise KeyboardInterrupt

    return milestones


def test_resuming_where_there_is_no_run_begins_one(tmp_path, unbroken):
    assert same(run(tmp_path / "new", resume=True), unbroken / "model")


def test_resuming_a_finished_run_changes_nothing(tmp_path, unbroken):
    run(unbroken, resume=True)
    assert len(rows(unbroken)) == 12
    assert same(unbroken / "model", run(tmp_path / "again"))


def test_a_folder_with_a_run_in_it_is_not_overwritten(unbroken):
    before = (unbroken / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run already .*--resume"):
        run(unbroken)
    assert (unbroken / "metrics.csv").read_bytes() == before


def test_resuming_with_another_architecture_is_refused_in_one_line(unbroken):
    plain = values("word")
    plain["backbone"]["num_layers"] = 3
    with pytest.raises(CheckpointError, match=r"does not fit this recipe: missing backbone.blocks.2") as raised:
        run(unbroken, recipe().read(plain, "toy"), resume=True)
    assert "\n" not in str(raised.value)


def test_a_run_leaves_a_model_of_averaged_weights_that_opens(unbroken):
    model = load_model(unbroken / "model", registry())
    averaged = read_weights(checkpoint.latest_checkpoint(unbroken) / "ema.safetensors")
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in model.state_dict().items())
    assert len(rows(unbroken)) == 12
    assert sorted(p.name for p in (unbroken / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch, unbroken):
    usual = checkpoint.save_file

    def full(tensors, path):
        if "step-00000008" in str(path):
            raise OSError(28, "No space left on device")
        usual(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match="No space left"):
            run(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    run(tmp_path, resume=True)
    assert same(tmp_path / "model", unbroken / "model")


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="file is a file; a run needs a folder"):
        run(tmp_path / "file")
    with pytest.raises(LuminaError, match=r"the run in .*within stopped"):
        run(tmp_path / "file" / "within")
    assert (tmp_path / "file").read_text() == "in the way"


def test_nan_stops_the_run_and_overwrites_nothing(tmp_path, monkeypatch):
    run(tmp_path, recipe("word", steps=4))
    saved = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    example = toy.Signals.get

    def broken(self, index, draw):
        found = dict(example(self, index, draw))
        found["signal"] = found["signal"] * float("nan")
        return found

    monkeypatch.setattr(toy.Signals, "get", broken)
    with pytest.raises(LuminaError, match=r"step 5: NaN or Inf, first made by backbone\.embed"):
        run(tmp_path, recipe("word", steps=8), resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == saved


def test_beginning_from_another_model_takes_what_fits_and_says_what_is_fresh(tmp_path, unbroken, capsys):
    plain = values("word", steps=1, lr=1e-12, warmup_steps=0)
    plain["backbone"]["num_layers"] = 3
    run(tmp_path, recipe().read(plain, "toy"), init=(unbroken,))
    said = capsys.readouterr().out
    assert "began from " in said
    assert "fresh: backbone.blocks.2" in said
    old, new = (read_weights(f / "model" / "model.safetensors") for f in (unbroken, tmp_path))
    assert all(float((new[name] - old[name]).abs().max()) < 1e-9 for name in old)
    assert not set(new) - set(old) - {name for name in new if name.startswith("backbone.blocks.2.")}


def test_of_several_models_to_begin_from_the_later_ones_weights_count(tmp_path, unbroken):
    first = read_weights(unbroken / "model" / "model.safetensors")
    words = {name: weight + 1 for name, weight in first.items() if name.startswith("conditioners.word.")}
    shutil.copytree(unbroken / "model", tmp_path / "words")
    save_file(words, tmp_path / "words" / "model.safetensors")
    still = recipe().read(values("word", steps=1, lr=1e-12, warmup_steps=0), "toy")
    run(tmp_path / "run", still, init=(unbroken, tmp_path / "words"))
    came = read_weights(tmp_path / "run" / "model" / "model.safetensors")
    assert words and set(came) == set(first)
    assert all(float((came[name] - (first | words)[name]).abs().max()) < 1e-6 for name in came)


def test_beginning_from_a_model_of_which_nothing_fits_is_refused(tmp_path, unbroken):
    shutil.copytree(unbroken / "model", tmp_path / "other")
    save_file({"something.else": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ConfigError, match="none of its weights fits"):
        run(tmp_path / "run", init=(tmp_path / "other",))


def test_grids_of_samples_are_written_and_touch_no_weight(tmp_path, unbroken):
    samples = [{"word": "low", "seed": 1}, {"word": "high", "seed": 2}]
    run(tmp_path, recipe("word", sample_interval=5, sample_requests=samples))
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-00000005.json", "step-00000010.json"]
    assert len(json.loads((tmp_path / "samples" / "step-00000005.json").read_text())) == 2
    assert same(tmp_path / "model", unbroken / "model")
    assert rows(tmp_path) == rows(unbroken)
