"""A training: after an interruption it continues with the same numbers, and its files are always complete."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from core import toy
from core.toy import recipe, registry, values
from forked import Program
from safetensors.torch import save_file

from lumina_core.errors import CheckpointError, ConfigError, LuminaError, PluginError
from lumina_core.locate import latest_checkpoint
from lumina_core.model_dir import load_model, read_weights
from lumina_core.training import checkpoint
from lumina_core.training import trainer as trainer_module
from lumina_core.training.callbacks import TrainCallback
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.trainer import Trainer

TIMEOUT = 120
"""Seconds to wait for another process."""


def make_trainer(out, toy_recipe=None, **kwargs):
    return Trainer(toy_recipe or recipe("word"), out, device="cpu", registry=registry(), **kwargs)


def train(out, toy_recipe=None, **kwargs):
    return make_trainer(out, toy_recipe, **kwargs).train()


def rows(out):
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        durations = {"step_seconds", "samples_per_second", "tokens_per_second", "mfu"}
        durations |= {"memory_bytes", "data_seconds", "seconds_left"}
        return [{key: value for key, value in row.items() if key not in durations} for row in csv.DictReader(file)]


def weights_are_equal(one, other):
    """Whether two folders hold the same weights, bit for bit."""
    first, second = read_weights(one / "model.safetensors"), read_weights(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def start_process(out, **environment):
    """Start `lumina train` of the toy recipe as a process."""
    (out.parent / "recipe.json").write_text(json.dumps(values("word")))
    # as many threads as here: their number decides the order of sums
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
    command = [Path(toy.__file__).with_name("toy_run.py"), "train"]
    return Program(*command, out.parent / "recipe.json", "--out", out, "--quiet", "--device", "cpu", **environment)


def kill_when(process, is_ready):
    """Kill a process by a signal that it cannot catch, once `is_ready()` is true."""
    deadline = time.monotonic() + TIMEOUT
    while not is_ready():
        assert process.returncode is None, process.outputs()
        assert time.monotonic() < deadline, "the process did not get there in time"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(TIMEOUT) == -signal.SIGKILL


class StopBy(TrainCallback):
    """Callback that interrupts a training after a step."""

    def __init__(self, step, interrupt):
        self.step, self.interrupt = step, interrupt

    def on_step_end(self, trainer, metrics):
        if metrics.step == self.step:
            self.interrupt(trainer)


def interrupt(trainer):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    train(out)
    return out


def test_a_killed_training_resumes_with_the_same_numbers(tmp_path, uninterrupted):
    out = tmp_path / "run"
    process = start_process(out, TOY_DELAY="0.02")
    kill_when(
        process, lambda: (out / "metrics.csv").is_file() and len((out / "metrics.csv").read_text().splitlines()) > 6
    )
    assert latest_checkpoint(out).name in {"step-00000004", "step-00000008"}
    train(out, resume=True)
    assert weights_are_equal(out / "model", uninterrupted / "model")
    assert rows(out) == rows(uninterrupted)


def test_a_training_killed_while_saving_resumes_with_the_same_numbers(tmp_path, uninterrupted):
    out, mark = tmp_path / "run", tmp_path / "mark"
    kill_when(start_process(out, TOY_SLEEP_IN="step-00000008", TOY_MARK=str(mark)), mark.exists)
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-00000004"]
    assert len(list((out / "checkpoints").glob(".step-00000008*partial"))) == 1
    train(out, resume=True)
    assert weights_are_equal(out / "model", uninterrupted / "model")
    assert rows(out) == rows(uninterrupted)
    assert not list(out.rglob("*.partial*"))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "muon", "gradient_accumulation_steps": 2},
        {"num_workers": 1, "ema_decay": 0.5, "lr_decay": "cosine"},
    ],
)
def test_an_interrupted_training_resumes_with_the_same_numbers_for_any_recipe(tmp_path, settings):
    dataset = {"mixed": True, "weighted": True}
    toy_recipe = recipe("costly", dataset, freeze=["conditioners.word"], cond_dropout=0.3, **settings)
    train(tmp_path / "uninterrupted", toy_recipe)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "interrupted", toy_recipe, callbacks=[StopBy(9, interrupt)])
    train(tmp_path / "interrupted", toy_recipe, resume=True)
    assert weights_are_equal(tmp_path / "interrupted" / "model", tmp_path / "uninterrupted" / "model")
    assert rows(tmp_path / "interrupted") == rows(tmp_path / "uninterrupted")


def test_resuming_without_a_checkpoint_is_refused_and_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"resume: got .*rnu, which has no checkpoint"):
        train(tmp_path / "rnu", resume=True)
    assert not list(tmp_path.iterdir())


def test_resuming_a_finished_training_changes_nothing(tmp_path, uninterrupted):
    train(uninterrupted, resume=True)
    assert len(rows(uninterrupted)) == 12
    assert weights_are_equal(uninterrupted / "model", train(tmp_path / "again"))


def test_a_folder_with_a_training_is_not_overwritten(uninterrupted):
    before = (uninterrupted / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a training already .*Resume that training"):
        train(uninterrupted)
    assert (uninterrupted / "metrics.csv").read_bytes() == before


def test_resuming_with_another_architecture_is_refused_in_one_line(uninterrupted):
    plain = values("word")
    plain["backbone"]["num_layers"] = 3
    with pytest.raises(ConfigError, match=r"backbone.num_layers: got 3, and the run has 2") as raised:
        train(uninterrupted, recipe().read(plain, "toy"), resume=True)
    assert "\n" not in str(raised.value)


def test_a_training_leaves_a_model_of_averaged_weights(uninterrupted):
    model = load_model(uninterrupted / "model", registry())
    averaged = read_weights(latest_checkpoint(uninterrupted) / "ema.safetensors")
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in model.state_dict().items())
    assert len(rows(uninterrupted)) == 12
    assert sorted(p.name for p in (uninterrupted / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_a_full_disk_stops_the_training_and_the_next_one_resumes(tmp_path, monkeypatch, uninterrupted):
    save = checkpoint.save_file

    def fail(tensors, path):
        if "step-00000008" in str(path):
            raise OSError(28, "No space left on device")
        save(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", fail)
        with pytest.raises(CheckpointError, match="No space left"):
            train(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    train(tmp_path, resume=True)
    assert weights_are_equal(tmp_path / "model", uninterrupted / "model")


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ConfigError, match=r"out: got the file .*file, expected a folder"):
        train(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"within below the file .*file, expected a folder"):
        train(tmp_path / "file" / "within")
    assert (tmp_path / "file").read_text() == "a file"


def test_nan_stops_the_training_and_overwrites_nothing(tmp_path, monkeypatch):
    train(tmp_path, recipe("word", steps=4))
    saved = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    get = toy.Signals.get

    def get_nan(self, index, rng):
        example = dict(get(self, index, rng))
        return {**example, "signal": example["signal"] * float("nan")}

    monkeypatch.setattr(toy.Signals, "get", get_nan)
    with pytest.raises(LuminaError, match=r"step 5: got NaN or Inf, first from backbone\.embed"):
        train(tmp_path, recipe("word", steps=8), resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == saved


def test_initial_weights_are_copied_where_they_fit_and_the_rest_is_listed(tmp_path, uninterrupted):
    plain = values("word", steps=1, lr=1e-12, warmup_steps=0)
    plain["backbone"]["num_layers"] = 3
    trainer = make_trainer(tmp_path, recipe().read(plain, "toy"), init=(uninterrupted,))
    (message,) = trainer.messages
    assert message.startswith("copied ") and "new: backbone.blocks.2" in message
    trainer.train()
    old, new = (read_weights(f / "model" / "model.safetensors") for f in (uninterrupted, tmp_path))
    assert all(float((new[name] - old[name]).abs().max()) < 1e-9 for name in old)
    assert not set(new) - set(old) - {name for name in new if name.startswith("backbone.blocks.2.")}


def test_the_last_of_several_initial_models_has_precedence(tmp_path, uninterrupted):
    first = read_weights(uninterrupted / "model" / "model.safetensors")
    words = {name: weight + 1 for name, weight in first.items() if name.startswith("conditioners.word.")}
    shutil.copytree(uninterrupted / "model", tmp_path / "words")
    save_file(words, tmp_path / "words" / "model.safetensors")
    toy_recipe = recipe().read(values("word", steps=1, lr=1e-12, warmup_steps=0), "toy")
    train(tmp_path / "run", toy_recipe, init=(uninterrupted, tmp_path / "words"))
    trained = read_weights(tmp_path / "run" / "model" / "model.safetensors")
    assert words and set(trained) == set(first)
    assert all(float((trained[name] - (first | words)[name]).abs().max()) < 1e-6 for name in trained)


def test_an_initial_model_of_which_nothing_fits_is_refused(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted / "model", tmp_path / "other")
    save_file({"something.else": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ConfigError, match="none of whose weights fits"):
        train(tmp_path / "run", init=(tmp_path / "other",))


# ---- samples


def test_samples_are_written_and_change_no_weight(tmp_path, uninterrupted):
    samples = [{"word": "low", "seed": 1}, {"word": "high", "seed": 2}]
    train(tmp_path, recipe("word", sample_interval=5, sample_requests=samples))
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-00000005.json", "step-00000010.json"]
    assert len(json.loads((tmp_path / "samples" / "step-00000005.json").read_text())) == 2
    assert weights_are_equal(tmp_path / "model", uninterrupted / "model")
    assert rows(tmp_path) == rows(uninterrupted)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ({"wrod": "low"}, ConfigError, r"training\.sample_requests\[0\].*'wrod'; did you mean 'word'"),
        ({"word": "low", "steps": 0}, ConfigError, r"training\.sample_requests\[0\].*steps"),
        ({"word": "low", "solver": "eulr"}, PluginError, "euler"),
    ],
)
def test_a_bad_sample_request_is_refused_before_the_first_step(tmp_path, sample, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path / "run", recipe("word", sample_interval=5, sample_requests=[sample]))
    assert not list(tmp_path.iterdir())


def test_samples_of_several_settings_are_generated_each_by_its_own(tmp_path):
    samples = [{"word": "low", "steps": 2}, {"word": "low", "steps": 3, "guidance_scale": 1}]
    train(tmp_path, recipe("word", steps=1, sample_interval=1, sample_requests=samples))
    (file,) = (tmp_path / "samples").iterdir()
    assert len(json.loads(file.read_text())) == 2


def test_a_guide_model_of_a_sample_request_is_used(tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr("lumina_core.sampling.pipeline.load_plugins", registry)
    plain = {"word": "low", "guidance_scale": 3}
    samples = [plain, {**plain, "guide_model": str(uninterrupted / "model")}]
    train(tmp_path, recipe("word", steps=1, sample_interval=1, sample_requests=samples))
    (file,) = (tmp_path / "samples").iterdir()
    first, second = json.loads(file.read_text())
    assert first != second


def test_a_failure_of_sampling_is_a_warning_and_the_training_continues(tmp_path):
    samples = [{"word": "low", "guide_model": str(tmp_path / "missing")}]
    with pytest.warns(UserWarning, match="step 2: no samples .*missing"):
        train(tmp_path / "run", recipe("word", steps=3, sample_interval=2, sample_requests=samples))
    assert len(rows(tmp_path / "run")) == 3


# ---- callbacks


class Recorder(TrainCallback):
    """Callback that records the events."""

    def __init__(self):
        self.events = []

    def on_train_start(self, trainer):
        self.events.append(("start", trainer.step))

    def on_step_end(self, trainer, metrics):
        assert metrics.step == trainer.step
        self.events.append(("step", metrics.step, metrics.loss))

    def on_checkpoint(self, trainer, folder):
        self.events.append(("checkpoint", folder.name))

    def on_train_end(self, trainer):
        self.events.append(("end", trainer.step))


def test_callbacks_are_called_in_order(tmp_path):
    recorder = Recorder()
    train(tmp_path, recipe(steps=3, checkpoint_interval=2), callbacks=[recorder])
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    names = [event[:2] for event in recorder.events]
    assert names == [
        ("start", 0), ("step", 1), ("checkpoint", "step-00000002"), ("step", 2), ("checkpoint", "step-00000003"),
        ("step", 3), ("end", 3),
    ]  # fmt: skip
    assert [event[2] for event in recorder.events if event[0] == "step"] == pytest.approx(losses, rel=1e-6)


def test_a_callback_that_stops_leaves_a_checkpoint_and_a_model_of_its_step(tmp_path, uninterrupted):
    model_dir = train(tmp_path, callbacks=[StopBy(6, Trainer.stop)])
    assert latest_checkpoint(tmp_path).name == "step-00000006"
    averaged = read_weights(tmp_path / "checkpoints" / "step-00000006" / "ema.safetensors")
    assert all(torch.equal(tensor, averaged[n]) for n, tensor in read_weights(model_dir / "model.safetensors").items())
    train(tmp_path, resume=True)
    assert rows(tmp_path) == rows(uninterrupted)
    assert weights_are_equal(model_dir, uninterrupted / "model")


def test_a_callback_that_returns_a_value_is_one_clear_error(tmp_path):
    class Returning(TrainCallback):
        def on_step_end(self, trainer, metrics):
            return metrics.loss > 0

    with pytest.raises(ConfigError, match=r"Returning\.on_step_end: got the return value True, .*trainer\.stop\(\)"):
        train(tmp_path, callbacks=[Returning()])


def test_callbacks_are_called_at_the_end_of_a_training_that_fails(tmp_path):
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe(), callbacks=[recorder, StopBy(2, interrupt)])
    assert recorder.events[-1] == ("end", 2)


# ---- from Python


def test_a_loop_over_train_step_equals_train(tmp_path, uninterrupted):
    with make_trainer(tmp_path) as trainer:
        losses = [trainer.train_step(batch).loss for batch in trainer.batches()]
        assert trainer.step == 12
        model_dir = trainer.save_model()
    assert losses == pytest.approx([float(row["loss"]) for row in rows(uninterrupted)], rel=1e-6)
    assert weights_are_equal(model_dir, uninterrupted / "model")
    assert not (tmp_path / "metrics.csv").exists()


def test_processes_share_the_batches_of_the_remaining_steps_without_overlap(tmp_path):
    with make_trainer(tmp_path) as trainer:
        everything = [batch.keys for batch in trainer.batches()]
        trainer.step = 2
        shares = []
        for rank in (0, 1):
            trainer.process = ProcessInfo(rank, 2, torch.device("cpu"))
            shares.append([batch.keys for batch in trainer.batches()])
    assert len(everything) == 12 and {len(keys) for share in shares for keys in share} == {2}
    assert [{*first, *second} for first, second in zip(*shares, strict=True)] == [set(keys) for keys in everything[2:]]


def test_a_recipe_may_be_a_path(tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps(values("word", steps=1)))
    assert make_trainer(tmp_path / "run", tmp_path / "toy.json").recipe.training.steps == 1


class Words(torch.utils.data.Dataset):
    """Plain PyTorch data set of dicts."""

    def __init__(self, **fields):
        self.fields = {"signal": torch.ones(2, 6), "word": "low", **fields}

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {name: value for name, value in self.fields.items() if value is not None}


def test_a_plain_dataset_of_dicts_is_trained_on(tmp_path):
    model_dir = train(tmp_path, recipe("word", steps=3), dataset=Words())
    assert model_dir.is_dir() and len(rows(tmp_path)) == 3


def test_a_dataset_that_yields_other_fields_is_one_clear_error(tmp_path):
    message = r"dataset\[0\]: got the fields signal, wrod, expected signal, word\. Add 'word'"
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path / "run", dataset=Words(word=None, wrod="low"))
    with pytest.raises(ConfigError, match=r"dataset\[0\]\['signal'\]: got list, expected a float tensor"):
        make_trainer(tmp_path / "run", dataset=Words(signal=[1.0]))
    assert not list(tmp_path.iterdir())


def test_the_folder_is_locked_before_it_is_searched_for_a_checkpoint(tmp_path, monkeypatch):
    calls = []
    for name in ("RunLock", "check_run_dir", "check_pretrained", "build_stages", "build_model"):
        real = getattr(trainer_module, name)
        monkeypatch.setattr(trainer_module, name, lambda *args, n=name, f=real: calls.append(n) or f(*args))
    make_trainer(tmp_path).close()
    assert calls == ["RunLock", "check_run_dir", "check_run_dir", "check_pretrained", "build_stages", "build_model"]
