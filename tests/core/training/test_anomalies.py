"""Steps that are not finite, or whose gradient is a spike: skipped or the end, with their examples in a file."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from core.toy import values
from core.training.test_trainer import make_trainer

from lumina_core.errors import LuminaError
from lumina_core.recipe import TrainingConfig, read_recipe
from lumina_core.training.callbacks import TrainCallback
from lumina_core.training.metrics import MIN_STEPS, AnomalyCheck


def with_training(**training):
    content = values("word")
    content["training"] |= training
    return read_recipe(content, "a recipe")


def entries(out):
    return [json.loads(line) for line in (out / "anomalies.jsonl").read_text(encoding="utf-8").splitlines()]


class Factor(TrainCallback):
    """Multiplies the gradients of some steps."""

    def __init__(self, factors):
        self.factors = factors

    def on_train_start(self, trainer):
        def change(gradient):
            return gradient * self.factors.get(trainer.step + 1, 1.0)

        self.handles = [p.register_hook(change) for p in trainer.model.parameters() if p.requires_grad]

    def on_train_end(self, trainer):
        for handle in self.handles:
            handle.remove()


def test_a_step_that_is_not_finite_is_skipped_and_its_examples_are_written(tmp_path):
    trainer = make_trainer(tmp_path / "run", with_training(on_nonfinite="skip", steps=4, compile=False))
    factor = Factor({2: float("nan")})
    factor.on_train_start(trainer)
    metrics, states, examples = [], [], []
    for batch in trainer.batches():
        examples.append([key.index for key in batch.keys])
        metrics.append(trainer.train_step(batch))
        states.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    trainer.close()
    assert [one.terms.get("skipped") for one in metrics] == [None, 1.0, None, None]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[1][name], states[2][name]) for name in states[0])
    (entry,) = entries(tmp_path / "run")
    assert (entry["step"], entry["action"], entry["grad_norm"]) == (2, "skip", "nan")
    assert entry["examples"] == examples[1]


def test_a_step_that_is_not_finite_stops_the_training_by_default(tmp_path):
    trainer = make_trainer(
        tmp_path / "run", with_training(steps=4, compile=False), callbacks=[Factor({3: float("inf")})]
    )
    with pytest.raises(LuminaError, match="step 3: got NaN or Inf"):
        trainer.train()
    assert [(entry["step"], entry["action"]) for entry in entries(tmp_path / "run")] == [(3, "stop")]


def test_a_spike_is_skipped_or_the_end(tmp_path):
    settings = {"spike_factor": 20.0, "steps": MIN_STEPS + 4, "compile": False, "checkpoint_interval": 100}
    spike = {2: 1e4, MIN_STEPS + 2: 1e4}  # the first comes before there is a median
    trainer = make_trainer(tmp_path / "skip", with_training(**settings), callbacks=[Factor(spike)])
    trainer.train()
    (entry,) = entries(tmp_path / "skip")
    assert (entry["step"], entry["action"]) == (MIN_STEPS + 2, "skip")
    with (tmp_path / "skip" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["skipped"] == "1"] == [str(MIN_STEPS + 2)]
    trainer = make_trainer(tmp_path / "stop", with_training(**settings, on_spike="stop"), callbacks=[Factor(spike)])
    with pytest.raises(LuminaError, match=r"the gradient norm .* is above 20 times .*Lower training\.lr"):
        trainer.train()


def test_a_resumed_training_finds_the_same_spikes(tmp_path):
    norms = [1.0, 1.1, 0.9, float("nan"), 1.05, 0.95, 1.0, 1.2, 0.8, 1.0, 1.0, 50.0, 1.01]
    training = TrainingConfig(spike_factor=3.0)
    whole, found = AnomalyCheck(training), []
    for step, norm in enumerate(norms, 1):
        found.append(whole.reason(1.0, norm))
        skipped = "1" if found[-1] else ""
        with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as file:
            file.write(("step,grad_norm,skipped\n" if step == 1 else "") + f"{step},{norm:.8g},{skipped}\n")
    assert [step for step, reason in enumerate(found, 1) if reason] == [4, 12]
    resumed = AnomalyCheck(training)
    resumed.restore(tmp_path / "metrics.csv", len(norms))
    assert resumed.median == whole.median == 1.0


def test_a_line_of_a_step_is_replaced_when_the_step_is_repeated(tmp_path):
    settings = with_training(on_nonfinite="skip", steps=4, checkpoint_interval=2, compile=False)

    class Stop(TrainCallback):
        def on_step_end(self, trainer, metrics):
            if metrics.step == 3:
                raise KeyboardInterrupt

    bad = {2: float("nan"), 3: float("nan")}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", settings, callbacks=[Factor(bad), Stop()]).train()
    make_trainer(tmp_path / "run", settings, callbacks=[Factor(bad)], resume=True).train()
    assert [entry["step"] for entry in entries(tmp_path / "run")] == [2, 3]
